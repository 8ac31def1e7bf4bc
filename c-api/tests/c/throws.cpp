/* Callbacks that do not return: throws RAM CR3 GVA KCR3 GPA:LEN:OFFSET...
 *
 * An exception goes through the library to whoever called, and everything can be used and released afterwards. longjmp is forbidden;
 * this program does it all the same, to see what the headers say of it: what the call used stays in use, nothing else does.
 */
#include <cerrno>
#include <cinttypes>
#include <csetjmp>
#include <cstring>
#include <fcntl.h>
#include <stdexcept>
#include <thread>
#include <unistd.h>
#include <vector>
#include "check.h"
#include "vgpu_perception.h"

static int fd;
static std::vector<gpa_seg> segs;
static std::jmp_buf out;
/* How many more reads are answered; then `how`. */
static long left = -1;
static enum { THROW, JUMP } how;

static int read_guest(void*, uint64_t gpa, void* dst, size_t len)
{
    if (left >= 0 && left-- == 0) {
        if (how == JUMP) {
            std::longjmp(out, 1);
        }
        throw std::runtime_error("the callback's own");
    }
    for (const gpa_seg& seg : segs) {
        if (gpa >= seg.gpa && gpa - seg.gpa < seg.len && len <= seg.len - (gpa - seg.gpa)) {
            return pread(fd, dst, len, (off_t)(seg.file_off + (gpa - seg.gpa))) == (ssize_t)len ? 0 : -EIO;
        }
    }
    return -EFAULT;
}

/* Calls `call`, whose callback throws at read number n; whether the exception came here. */
template <typename F> static bool thrown(long n, F call)
{
    how = THROW;
    left = n;
    try {
        call();
    } catch (const std::runtime_error& error) {
        CHECK(std::strcmp(error.what(), "the callback's own") == 0 && left == -1);
        return true;
    }
    left = -1;
    return false;
}

/* Calls `call`, whose callback jumps out at its first read. */
template <typename F> static void jumped(F call)
{
    how = JUMP;
    left = 0;
    if (setjmp(out) == 0) {
        call();
        CHECK(!"the callback jumped");
    }
    CHECK(left == -1);
}

static uint8_t frame[VGPU_SLOT_STRIDE];

int main(int argc, char** argv)
{
    CHECK(argc >= 6);
    fd = open(argv[1], O_RDONLY);
    const uint64_t cr3 = strtoull(argv[2], nullptr, 0), gva = strtoull(argv[3], nullptr, 0), kcr3 = strtoull(argv[4], nullptr, 0);
    for (int i = 5; i < argc; i++) {
        gpa_seg seg;
        CHECK(sscanf(argv[i], "%" SCNx64 ":%" SCNx64 ":%" SCNx64, &seg.gpa, &seg.len, &seg.file_off) == 3);
        segs.push_back(seg);
    }
    vmie_mem* m = vgpux_mem_from_reader_segs(read_guest, nullptr, segs.data(), segs.size());
    CHECK(m != nullptr);

    /* At every place of every call, near its beginning. */
    vmie_win32* v = nullptr;
    for (long n = 0; n < 20; n++) {
        CHECK(thrown(n, [&] { vmie_win32_open(m, kcr3); }));
        CHECK(thrown(n, [&] { vmie_win32_open(m, 0); }));
    }
    v = vmie_win32_open(m, kcr3);
    CHECK(v != nullptr);
    for (long n = 0; n < 20; n++) {
        CHECK(thrown(n, [&] { vgpup_open(v); }));
    }
    vgpux_candidate c{};
    c.proc_cr3 = cr3;
    c.region_gva = gva;
    vgpup_region* r = vgpux_region_open(v, &c);
    CHECK(r != nullptr);
    vgpup_frame_info info;
    vgpup_cursor cursor;
    vgpup_status status;
    unsigned through = 0;
    for (long n = 0; n < 40; n++) {
        uint64_t word;
        through += thrown(n, [&] { vgpup_sample_frame(r, m, frame, sizeof frame, &info); vgpux_forget_frames(r); });
        through += thrown(n, [&] { vgpup_read_cursor(r, m, &cursor); });
        through += thrown(n, [&] { vgpup_read_status(r, m, &status); });
        through += thrown(n, [&] { gva_read(m, cr3, gva, &word, sizeof word); });
        through += thrown(n, [&] { vgpup_confirm_alive(m, cr3, gva, 0); });
    }
    CHECK(through > 60);
    /* Nothing is left in use: no lock, no place of this thread. */
    CHECK(vgpux_forget_frames(r) == 0 && vgpup_sample_frame(r, m, frame, sizeof frame, &info) == 1);
    CHECK(vgpup_read_cursor(r, m, &cursor) == 1 && vgpup_read_status(r, m, &status) == 0);
    std::printf("exceptions: %u came through, and everything works\n", through);

    jumped([&] { vgpup_sample_frame(r, m, frame, sizeof frame, &info); });
    vgpux_skip skip;
    CHECK(vgpup_sample_frame(r, m, frame, sizeof frame, &info) == 0);
    CHECK(vgpux_last_skip(r, &skip) == 0 && skip.reason == VGPUX_SKIP_BUSY_HANDLE);
    CHECK(vgpup_read_cursor(r, m, &cursor) == 1);
    vgpup_region* other = vgpux_region_open(v, &c);
    CHECK(other != nullptr && vgpup_sample_frame(other, m, frame, sizeof frame, &info) == 1);
    /* A thread that does it again and again can call no more; the others can. */
    unsigned jumps = 1;
    for (; jumps < 100 && vgpup_read_cursor(other, m, &cursor) == 1; jumps++) {
        jumped([&] { vgpup_read_cursor(other, m, &cursor); });
    }
    CHECK(jumps > 5 && jumps < 100 && vgpux_last_error_code() == VGPUX_E_MEMORY);
    std::thread([&] {
        CHECK(vgpup_read_cursor(other, m, &cursor) == 1 && vgpup_sample_frame(other, m, frame, sizeof frame, &info) <= 1);
        vgpup_close(other);
        vgpup_close(r);
        vmie_win32_close(v);
        vmie_mem_close(m);
        CHECK(vgpup_read_cursor(other, m, &cursor) == VGPUX_E_HANDLE);
    }).join();
    std::printf("longjmp: this thread can call no more after %u, the others can\n", jumps);
    close(fd);
    return 0;
}
