/* The bound of the searches that are one call: a guest whose RAM is made so that they would go on for ever.
 *
 * Each page is a page-table root of the same kernel half, and its lower half leads to other pages, so that each is a process with 2^36
 * pages. There is no memory behind it: the callbacks compute what it holds.
 */
#include <inttypes.h>
#include <string.h>
#include "check.h"

enum { PAGES = 65536 }; /* 256 MiB */
/* As vgpu_perception_ext.h has it. */
static const uint64_t BOUND = 16777216 + 256 * (uint64_t)PAGES;

static uint64_t words;

static uint64_t word_at(uint64_t gpa)
{
    uint64_t index = gpa / 8 % 512, from = index < 256 ? gpa : index * 8;
    uint64_t mixed = (from + 1) * 0x9e3779b97f4a7c15u;
    uint64_t page = (mixed >> 29) % PAGES;
    return page << 12 | (index < 256 ? 0x67 : 0x63);
}

static int read_words(void* ctx, uint64_t gpa, uint64_t* to, size_t n)
{
    (void)ctx;
    if (gpa % 8 != 0 || gpa / 4096 >= PAGES || n > (PAGES * UINT64_C(4096) - gpa) / 8) {
        return -1;
    }
    words += n;
    for (size_t i = 0; i < n; i++) {
        to[i] = word_at(gpa + 8 * i);
    }
    return 0;
}

static int read_guest(void* ctx, uint64_t gpa, void* dst, size_t len)
{
    uint64_t word;
    unsigned char* to = dst;
    while (len > 0) {
        size_t skip = gpa % 8, n = len < 8 - skip ? len : 8 - skip;
        if (read_words(ctx, gpa - skip, &word, 1) != 0) {
            return -1;
        }
        memcpy(to, (unsigned char*)&word + skip, n);
        to += n, gpa += n, len -= n;
    }
    return 0;
}

static size_t load_lines(void* ctx, const uint64_t* gpas, uint64_t (*lines)[8], size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (read_words(ctx, gpas[i], lines[i], 8) != 0) {
            return i;
        }
    }
    return n;
}

/* Where the call ended at its bound. */
static void bounded(const char* what, int ended)
{
    char why[256];
    vgpux_last_error(why, sizeof why);
    CHECK(ended && vgpux_last_error_code() == VGPUX_E_BUDGET && strstr(why, "search in steps") != NULL);
    printf("%s: %" PRIu64 " words read of %" PRIu64 " loads allowed\n", what, words, BOUND);
    /* It came to its bound. Tables are read in blocks of up to 512 words, of which not all are looked at and counted. */
    CHECK(words > BOUND / 2 && words < 16 * BOUND);
    words = 0;
}

int main(void)
{
    vgpux_reader reader = {.size = sizeof reader, .read = read_guest, .read_words = read_words, .load_lines = load_lines};
    gpa_seg all = {0, PAGES * UINT64_C(4096), 0};
    vmie_mem* m = vgpux_mem_open_reader(&reader, NULL, &all, 1);
    CHECK(m != NULL);
    vmie_win32* v = vmie_win32_open(m, 0x1000);
    CHECK(v != NULL);
    words = 0;
    bounded("vgpup_open", vgpup_open(v) == NULL);
    uint64_t a, b, c;
    bounded("vgpup_discover_candidate", vgpup_discover_candidate(v, &a, &b, &c) == VGPUX_E_BUDGET);
    bounded("vgpux_candidates", vgpux_candidates(v, NULL, 0) == VGPUX_E_BUDGET);
    /* In steps, a call takes as long as its caller allows. */
    vgpux_scan* s = vgpux_scan_open(v);
    vgpux_candidate found;
    CHECK(s != NULL && vgpux_scan_step(s, 10000, &found) == VGPUX_SCAN_PENDING && words < 30000);
    vgpux_scan_close(s);
    vmie_win32_close(v);
    vmie_mem_close(m);
    puts("bounded");
    return 0;
}
