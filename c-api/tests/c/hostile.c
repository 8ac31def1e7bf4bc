/* Calls in any order with any arguments over a guest that lies: hostile SEED RAM KCR3 CR3 GVA FORGED_CR3 GPA:LEN:OFFSET...
 *
 * Handles are live, closed, of another kind, misaligned or made up; the callback changes some of the bytes that it returns, and refuses
 * some requests. Nothing is checked but what each declaration promises; sanitizers and valgrind watch the rest.
 */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include "check.h"

static uint64_t state;

static uint64_t any(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static gpa_seg segs[8];
static size_t n_segs;
static const unsigned char* ram;
static unsigned lies; /* of a thousand requests */

static int read_guest(void* ctx, uint64_t gpa, void* dst, size_t len)
{
    CHECK(ctx == &lies);
    for (size_t i = 0; i < n_segs; i++) {
        const gpa_seg* seg = &segs[i];
        if (gpa < seg->gpa || gpa - seg->gpa >= seg->len || len > seg->len - (gpa - seg->gpa)) {
            continue;
        }
        memcpy(dst, ram + seg->file_off + (gpa - seg->gpa), len);
        if (any(1000) < lies) {
            switch (any(3)) {
            case 0:
                return -(int)any(100) - 1;
            case 1:
                ((unsigned char*)dst)[any(len)] ^= (unsigned char)(1u << any(8));
                break;
            default:
                memset(dst, (int)any(256), len);
            }
        }
        return 0;
    }
    return -1;
}

enum { KINDS = 4, EACH = 3 };
/* mem, win32, region, scan; of each some that are open and some that were. */
static void* handles[KINDS][EACH];

static void* pick(unsigned kind)
{
    switch (any(12)) {
    case 0:
        return NULL;
    case 1:
        return handles[any(KINDS)][any(EACH)];
    case 2:
        return (char*)handles[kind][any(EACH)] + 1;
    case 3:
        return (void*)(uintptr_t)any(UINT64_MAX);
    default:
        return handles[kind][any(EACH)];
    }
}

static uint64_t cr3s[4], gva;
static union {
    uint64_t words[512];
    unsigned char bytes[4096];
} space;
static uint8_t frame[1 << 16];

/* Somewhere in `space` with room for 256 bytes; or nowhere, or askew. */
static void* out(void)
{
    switch (any(10)) {
    case 0:
        return NULL;
    case 1:
        return space.bytes + 1 + any(2048);
    default:
        return space.words + any(400);
    }
}

static uint64_t address(void)
{
    switch (any(4)) {
    case 0:
        return any(UINT64_MAX);
    case 1:
        return gva + any(VGPU_REGION_BYTES);
    default:
        return gva;
    }
}

static void tristate(int got)
{
    CHECK(got <= 1 && got >= VGPUX_E_INTERNAL + 1);
}

static void step(void)
{
    vgpux_candidate c = {.proc_cr3 = cr3s[any(4)], .region_gva = address()};
    void** slot = NULL;
    void* new = NULL;
    switch (any(28)) {
    case 0:
        slot = &handles[0][any(EACH)];
        new = any(2) ? vgpux_mem_from_reader_segs(read_guest, &lies, segs, n_segs) : NULL;
        vmie_mem_close(new == NULL ? pick(0) : *slot);
        break;
    case 1:
        slot = &handles[1][any(EACH)];
        vmie_win32_close(*slot);
        new = vmie_win32_open(pick(0), cr3s[any(4)]);
        break;
    case 2:
    case 3:
        slot = &handles[2][any(EACH)];
        vgpup_close(*slot);
        new = vgpux_region_open(pick(1), &c);
        break;
    case 4:
        if (any(8) == 0) {
            slot = &handles[2][any(EACH)];
            vgpup_close(*slot);
            new = vgpup_open(pick(1));
        }
        break;
    case 5:
        slot = &handles[3][any(EACH)];
        vgpux_scan_close(*slot);
        new = vgpux_scan_open(pick(1));
        break;
    case 6:
    case 7:
    case 8:
        CHECK(vgpux_scan_step(pick(3), any(100000), out()) <= VGPUX_SCAN_PENDING);
        break;
    case 9:
        CHECK(vgpux_scan_get_stats(pick(3), out()) <= 0);
        break;
    case 10:
        CHECK(gva_read(pick(0), cr3s[any(4)], address(), frame, any(sizeof frame)) <= 0);
        break;
    case 11:
        CHECK(gva_to_gpa(pick(0), cr3s[any(4)], address(), out()) <= 0);
        break;
    case 12:
    case 13:
    case 14:
    case 15: {
        vgpup_frame_info fi;
        size_t cap = any(8) == 0 ? any(100) : sizeof frame;
        int got = vgpup_sample_frame(pick(2), pick(0), frame, cap, &fi);
        tristate(got);
        CHECK(got != 1 || (fi.bytes <= cap && fi.bytes == (size_t)fi.desc.stride * fi.desc.height));
        break;
    }
    case 16:
    case 17:
        tristate(vgpup_read_cursor(pick(2), pick(0), out()));
        break;
    case 18:
        tristate(vgpup_read_geometry(pick(2), pick(0), out()));
        break;
    case 19:
        CHECK(vgpup_read_status(pick(2), pick(0), out()) <= 0);
        vgpup_run_epoch(pick(2));
        break;
    case 20:
        tristate(vgpup_confirm_alive(pick(0), cr3s[any(4)], address(), any(2000)));
        break;
    case 21:
        CHECK(vgpup_build_control_write(pick(2), out(), out(), out(), out(), out()) <= 0);
        break;
    case 22:
        CHECK(vgpux_last_skip(pick(2), out()) <= 0 && vgpux_frames_missed(pick(2), out(), out()) <= 0);
        break;
    case 23:
        CHECK(vgpux_forget_frames(pick(2)) <= 0 && vgpux_region_place(pick(2), out(), out()) <= 0);
        break;
    case 24:
        tristate(vgpux_read_heartbeat(pick(2), pick(0), out(), out()));
        break;
    case 25:
        vgpux_last_error((char*)space.bytes, any(300));
        CHECK(vgpux_last_error_code() <= 0);
        break;
    case 26:
        CHECK(vmie_win32_mem(pick(1)) != (vmie_mem*)1);
        break;
    default:
        if (any(8) == 0) {
            CHECK(proc_list(pick(1), (process*)space.words, 40) >= VGPUX_E_INTERNAL + 1);
        }
    }
    if (slot != NULL && new != NULL) {
        *slot = new;
    }
}

int main(int argc, char** argv)
{
    CHECK(argc >= 8);
    state = strtoull(argv[1], NULL, 0) * 0x9e3779b97f4a7c15u + 1;
    for (int i = 0; i < 3; i++) {
        cr3s[i] = strtoull(argv[i == 2 ? 6 : 3 + i], NULL, 0);
    }
    gva = strtoull(argv[5], NULL, 0);
    uint64_t end = 0;
    for (int i = 7; i < argc && n_segs < 8; i++, n_segs++) {
        gpa_seg* seg = &segs[n_segs];
        CHECK(sscanf(argv[i], "%" SCNx64 ":%" SCNx64 ":%" SCNx64, &seg->gpa, &seg->len, &seg->file_off) == 3);
        end = seg->file_off + seg->len;
    }
    int fd = open(argv[2], O_RDONLY);
    ram = mmap(NULL, end, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(fd >= 0 && ram != MAP_FAILED);
    for (int i = 0; i < EACH; i++) {
        handles[0][i] = vgpux_mem_from_reader_segs(read_guest, &lies, segs, n_segs);
        handles[1][i] = vmie_win32_open(handles[0][i], cr3s[0]);
        vgpux_candidate c = {.proc_cr3 = cr3s[1], .region_gva = gva};
        handles[2][i] = vgpux_region_open(handles[1][i], &c);
        handles[3][i] = vgpux_scan_open(handles[1][i]);
        CHECK(handles[2][i] != NULL && handles[3][i] != NULL);
    }
    for (int round = 0; round < 4000; round++) {
        lies = (unsigned)any(3) * 10;
        step();
    }
    /* Whatever is open still works, or says why not. */
    lies = 0;
    for (int i = 0; i < EACH; i++) {
        vgpup_cursor cursor;
        vgpup_read_cursor(handles[2][i], handles[0][i], &cursor);
        vgpux_scan_close(handles[3][i]);
        vgpup_close(handles[2][i]);
        vmie_win32_close(handles[1][i]);
        vmie_mem_close(handles[0][i]);
    }
    puts("survived");
    return 0;
}
