/* The library without a heap, in a program without a C library: no_heap RAM KCR3 CR3 GVA GPA:LEN:OFFSET...
 *
 * x86-64 Linux alone: the only things it is given are three system calls and mem*.
 */
#include "vgpu_perception_ext.h"

/* ---- what an embedder without a C library has to supply: mem* -------------------------------------------------------- */

void* memcpy(void* restrict to, const void* restrict from, size_t n)
{
    void* start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return start;
}

void* memmove(void* to, const void* from, size_t n)
{
    if ((uintptr_t)to - (uintptr_t)from >= n) {
        return memcpy(to, from, n);
    }
    for (size_t i = n; i > 0; i--) {
        ((volatile unsigned char*)to)[i - 1] = ((const unsigned char*)from)[i - 1];
    }
    return to;
}

void* memset(void* to, int byte, size_t n)
{
    void* start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return start;
}

int memcmp(const void* a, const void* b, size_t n)
{
    const unsigned char *x = a, *y = b;
    for (size_t i = 0; i < n; i++) {
        if (x[i] != y[i]) {
            return x[i] < y[i] ? -1 : 1;
        }
    }
    return 0;
}

/* ---- the program ----------------------------------------------------------------------------------------------------- */

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static void say(const char* text)
{
    size_t n = 0;
    while (text[n] != 0) {
        n++;
    }
    call(1, 1, (long)text, (long)n, 0, 0, 0);
}

static _Noreturn void leave(long status)
{
    for (;;) {
        call(231, status, 0, 0, 0, 0, 0);
    }
}

#define STRING_(line) #line
#define STRING(line) STRING_(line)
#define CHECK(condition)                                              \
    do {                                                              \
        if (!(condition)) {                                           \
            char why[256];                                            \
            vgpux_last_error(why, sizeof why);                        \
            say("no_heap.c:" STRING(__LINE__) ": " #condition ": "); \
            say(why);                                                 \
            say("\n");                                                \
            leave(1);                                                 \
        }                                                             \
    } while (0)

static const char* number(const char* text, uint64_t* out)
{
    uint64_t value = 0;
    CHECK(text[0] == '0' && text[1] == 'x');
    for (text += 2;; text++) {
        unsigned digit = (unsigned char)*text;
        if (digit >= '0' && digit <= '9') {
            digit -= '0';
        } else if (digit >= 'a' && digit <= 'f') {
            digit -= 'a' - 10;
        } else {
            break;
        }
        value = value * 16 + digit;
    }
    *out = value;
    return *text == ':' ? text + 1 : text;
}

static gpa_seg segs[8];
static size_t n_segs;

static int read_guest(void* ctx, uint64_t gpa, void* dst, size_t len)
{
    for (size_t i = 0; i < n_segs; i++) {
        if (gpa >= segs[i].gpa && gpa - segs[i].gpa < segs[i].len && len <= segs[i].len - (gpa - segs[i].gpa)) {
            const unsigned char* from = (const unsigned char*)ctx + segs[i].file_off + (gpa - segs[i].gpa);
            if (len == 8 && gpa % 8 == 0) {
                *(uint64_t*)dst = *(const volatile uint64_t*)from;
            } else if (len == 4 && gpa % 4 == 0) {
                *(uint32_t*)dst = *(const volatile uint32_t*)from;
            } else {
                memcpy(dst, from, len);
            }
            return 0;
        }
    }
    return -1;
}

static _Alignas(VGPUX_STORAGE_ALIGN) unsigned char mem_at[VGPUX_MEM_STORAGE_BYTES];
static _Alignas(VGPUX_STORAGE_ALIGN) unsigned char win32_at[VGPUX_WIN32_STORAGE_BYTES];
static _Alignas(VGPUX_STORAGE_ALIGN) unsigned char region_at[VGPUX_REGION_STORAGE_BYTES];
static _Alignas(VGPUX_STORAGE_ALIGN) unsigned char scan_at[VGPUX_SCAN_STORAGE_BYTES];
static _Alignas(VGPUX_STORAGE_ALIGN) unsigned char scratch[VGPUX_SCRATCH_BYTES(6ull << 30)];
static _Alignas(VGPUX_STORAGE_ALIGN) unsigned char more[VGPUX_SCRATCH_MIN_BYTES];
static uint8_t frame[64 * 48 * 4];

static vgpup_region* live_region(vmie_mem* m, vmie_win32* v, uint64_t cr3)
{
    for (int tries = 0; tries < 3; tries++) {
        vgpup_region* r = vgpux_region_init(region_at, sizeof region_at, v, NULL);
        CHECK(r != NULL);
        uint64_t at_cr3 = 0, at_gva = 0, hb0 = 0;
        CHECK(vgpup_discover_candidate(v, &at_cr3, &at_gva, &hb0) == 0);
        long time[2] = {0, 300000000};
        call(35, (long)time, 0, 0, 0, 0, 0);
        int alive = vgpup_confirm_alive(m, at_cr3, at_gva, hb0);
        CHECK(alive == (at_cr3 == cr3));
        if (alive) {
            return r;
        }
        vgpup_close(r);
    }
    return NULL;
}

/* ---- how much stack the library takes -------------------------------------------------------------------------------- */

enum { STACK_LIMIT = 64 * 1024, STACK_PAINTED = 256 * 1024 };
static uintptr_t stack_bottom;

static __attribute__((noinline)) void paint_stack(void)
{
    volatile unsigned char here[STACK_PAINTED];
    for (size_t i = 0; i < sizeof here; i++) {
        here[i] = 0xa5;
    }
    /* Only ever compared with the paint. */
    stack_bottom = (uintptr_t)here;
}

static __attribute__((noinline)) size_t stack_used(void)
{
    size_t untouched = 0;
    while (untouched < STACK_PAINTED && ((volatile unsigned char*)stack_bottom)[untouched] == 0xa5) {
        untouched++;
    }
    return STACK_PAINTED - untouched;
}

static void say_number(size_t value)
{
    char text[24];
    size_t at = sizeof text;
    text[--at] = 0;
    do {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    say(text + at);
}

static _Noreturn __attribute__((used)) void start(const long* stack)
{
    int argc = (int)stack[0];
    char** argv = (char**)(stack + 1);
    CHECK(argc >= 7);
    uint64_t kcr3, cr3, gva;
    number(argv[2], &kcr3);
    number(argv[3], &cr3);
    number(argv[4], &gva);
    uint64_t file_len = 0;
    for (int i = 6; i < argc && n_segs < 8; i++, n_segs++) {
        number(number(number(argv[i], &segs[n_segs].gpa), &segs[n_segs].len), &segs[n_segs].file_off);
        file_len = segs[n_segs].file_off + segs[n_segs].len;
    }
    long fd = call(2, (long)argv[1], 0, 0, 0, 0, 0);
    CHECK(fd >= 0);
    long ram = call(9, 0, (long)file_len, 1, 1, fd, 0);
    CHECK(ram > 0);

    paint_stack();
    CHECK(vgpux_mem_init(mem_at, sizeof mem_at, read_guest, (void*)ram, segs, VGPUX_MEM_SEGMENTS + 1) == NULL);
    vmie_mem* m = vgpux_mem_init(mem_at, sizeof mem_at, read_guest, (void*)ram, segs, n_segs);
    CHECK(m != NULL);
    vmie_win32* v = vgpux_win32_init(win32_at, sizeof win32_at, m, kcr3, scratch, sizeof scratch);
    CHECK(v != NULL);
    CHECK(proc_list(v, NULL, 0) >= 4);
    vgpup_region* r = live_region(m, v, cr3);
    CHECK(r != NULL);
    vgpup_frame_info fi;
    CHECK(vgpup_sample_frame(r, m, frame, sizeof frame, &fi) == 1 && fi.desc.frame_id == 5);
    CHECK(vgpup_sample_frame(r, m, frame, sizeof frame, &fi) == 0);
    static uint8_t bytes[sizeof frame];
    CHECK(gva_read(m, cr3, gva + VGPU_RING_OFFSET + VGPU_SLOT_STRIDE, bytes, sizeof bytes) == 0);
    CHECK(memcmp(bytes, frame, sizeof frame) == 0);
    vgpup_cursor cursor;
    vgpup_geometry geometry;
    vgpup_status status;
    CHECK(vgpup_read_cursor(r, m, &cursor) == 1 && cursor.x == 17 && cursor.y == -5);
    CHECK(vgpup_read_geometry(r, m, &geometry) == 1 && geometry.dpi == 96);
    CHECK(vgpup_read_status(r, m, &status) == 0 && vgpup_run_epoch(r) == 1);

    vgpux_scan* s = vgpux_scan_init(scan_at, sizeof scan_at, v, more, sizeof more);
    vgpux_candidate c;
    int found = 0, step;
    while ((step = vgpux_scan_step(s, 1000, &c)) > 0) {
        found += step == VGPUX_SCAN_FOUND;
    }
    CHECK(step == VGPUX_SCAN_DONE && found == 2);
    vgpux_scan_close(s);
    CHECK(vgpux_scan_step(s, 1000, &c) == VGPUX_E_HANDLE);

    CHECK(vgpup_read_cursor(NULL, m, &cursor) == VGPUX_E_HANDLE);
    CHECK(vgpup_read_cursor((vgpup_region*)v, m, &cursor) == VGPUX_E_HANDLE);
    CHECK(vgpup_read_cursor((vgpup_region*)(region_at + 1), m, &cursor) == VGPUX_E_HANDLE);
    vgpup_close(r);
    CHECK(vgpup_read_cursor(r, m, &cursor) == VGPUX_E_HANDLE);
    vmie_win32_close(v);
    vmie_mem_close(m);
    CHECK(gva_read(m, cr3, gva, bytes, 8) == VGPUX_E_HANDLE);

    /* Nothing known: where RAM lies and which root there is are found. */
    m = vgpux_mem_init(mem_at, sizeof mem_at, read_guest, (void*)ram, NULL, 0);
    v = vgpux_win32_init(win32_at, sizeof win32_at, m, 0, scratch, sizeof scratch);
    CHECK(v != NULL && live_region(m, v, cr3) != NULL);
    size_t used = stack_used();
    say("without a heap, on ");
    say_number(used);
    say(" bytes of stack\n");
    CHECK(used < STACK_LIMIT);
    leave(0);
}

__asm__(".globl _start\n_start:\n    mov %rsp, %rdi\n    and $-16, %rsp\n    call start\n");
