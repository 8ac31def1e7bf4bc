/* The bound of what one call reads, in words: guests whose RAM is made so that searches would go on for ever.
 *
 *   budget                                 RAM that the callbacks compute, whose pages are all tables
 *   budget RAM KCR3 GPA:LEN:OFFSET...      a file, in which the way from KCR3 to a kernel does not end
 *
 * Nothing is timed: what the callbacks are asked for is counted.
 */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include "check.h"

/* As vgpu_perception_ext.h has them. */
static uint64_t bound(uint64_t pages)
{
    return 16777216 + 256 * pages;
}
enum { OVERDRAWN = 32768, BEGINNING = 65536 };

static uint64_t words;

/* Reads n words of RAM; false where there is none. */
static int (*words_of)(uint64_t gpa, uint64_t* to, size_t n);

enum { PAGES = 65536 }; /* 256 MiB */

/* Each page is a page-table root of the same kernel half, and its lower half leads to other pages, so that each is a process with 2^36
 * pages. */
static int tables(uint64_t gpa, uint64_t* to, size_t n)
{
    if (gpa / 4096 >= PAGES || n > (PAGES * UINT64_C(4096) - gpa) / 8) {
        return 0;
    }
    for (size_t i = 0; i < n; i++, gpa += 8) {
        uint64_t index = gpa / 8 % 512, from = index < 256 ? gpa : index * 8;
        uint64_t mixed = (from + 1) * 0x9e3779b97f4a7c15u;
        to[i] = (mixed >> 29) % PAGES << 12 | (index < 256 ? 0x67 : 0x63);
    }
    return 1;
}

/* Words of all kinds: entries that lead to any page, zeros, bits at random. */
static int garbage(uint64_t gpa, uint64_t* to, size_t n)
{
    if (!tables(gpa, to, n)) {
        return 0;
    }
    for (size_t i = 0; i < n; i++, gpa += 8) {
        uint64_t mixed = (gpa + 1) * 0xd1342543de82ef95u;
        switch (mixed >> 61) {
        case 0:
            to[i] = mixed * 0x9e3779b97f4a7c15u;
            break;
        case 1:
            to[i] = 0;
            break;
        default:
            to[i] |= gpa / 8 % 512 < 256 ? 0 : (mixed >> 20 & 0x7ff) << 52;
        }
    }
    return 1;
}

static gpa_seg segs[8];
static size_t n_segs;
static const unsigned char* ram;

static int file(uint64_t gpa, uint64_t* to, size_t n)
{
    for (size_t i = 0; i < n_segs; i++) {
        if (gpa >= segs[i].gpa && gpa - segs[i].gpa < segs[i].len && n * 8 <= segs[i].len - (gpa - segs[i].gpa)) {
            memcpy(to, ram + segs[i].file_off + (gpa - segs[i].gpa), n * 8);
            return 1;
        }
    }
    return 0;
}

static int read_words(void* ctx, uint64_t gpa, uint64_t* to, size_t n)
{
    (void)ctx;
    words += n;
    return gpa % 8 == 0 && words_of(gpa, to, n) ? 0 : -1;
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

static const vgpux_reader batches = {.size = sizeof batches, .read = read_guest, .read_words = read_words, .load_lines = load_lines};
static const vgpux_reader single = {.size = sizeof single, .read = read_guest};

/* A call that ended at its bound: it read no more, `percent` of it at least, and stopped for no other reason. */
static void bounded(const char* what, int ended, unsigned percent)
{
    char why[256];
    vgpux_last_error(why, sizeof why);
    printf("%s: %" PRIu64 " words read of %" PRIu64 "\n", what, words, bound(PAGES));
    CHECK(ended && vgpux_last_error_code() == VGPUX_E_BUDGET && strstr(why, "search in steps") != NULL);
    CHECK(words <= bound(PAGES) && words > bound(PAGES) / 100 * percent);
    words = 0;
}

/* Steps of s, at most `steps`, each within its budget. */
static int step_on(vgpux_scan* s, uint64_t budget, int steps)
{
    vgpux_candidate found;
    int step = VGPUX_SCAN_PENDING;
    for (int i = 0; i < steps && step != VGPUX_SCAN_DONE; i++) {
        words = 0;
        step = vgpux_scan_step(s, budget, &found);
        CHECK(step == VGPUX_SCAN_PENDING || step == VGPUX_SCAN_FOUND || step == VGPUX_SCAN_DONE || step == VGPUX_E_NOT_FOUND);
        CHECK(words <= budget + OVERDRAWN);
        if (step == VGPUX_E_NOT_FOUND) {
            break;
        }
    }
    words = 0;
    return step;
}

static void endless_tables(const vgpux_reader* reader)
{
    words_of = tables;
    gpa_seg all = {0, PAGES * UINT64_C(4096), 0};
    vmie_mem* m = vgpux_mem_open_reader(reader, NULL, &all, 1);
    CHECK(m != NULL);
    vmie_win32* v = vmie_win32_open(m, 0x1000);
    CHECK(v != NULL && words <= BEGINNING);
    words = 0;
    bounded("vgpup_open", vgpup_open(v) == NULL, 90);
    uint64_t a, b, c;
    bounded("vgpup_discover_candidate", vgpup_discover_candidate(v, &a, &b, &c) == VGPUX_E_BUDGET, 90);
    bounded("vgpux_candidates", vgpux_candidates(v, NULL, 0) == VGPUX_E_BUDGET, 90);
    /* What a root costs at most is charged for each. */
    bounded("vmie_proc_list", vmie_proc_list(v, NULL, 0) == VGPUX_E_BUDGET, 33);
    for (uint64_t budget = 1; budget <= 1000000; budget *= 100) {
        vgpux_scan* s = vgpux_scan_open(v);
        CHECK(s != NULL && step_on(s, budget, 100) != VGPUX_SCAN_DONE);
        vgpux_scan_close(s);
    }
    vmie_win32_close(v);
    vmie_mem_close(m);
}

/* With nothing known. */
static void garbage_everywhere(const vgpux_reader* reader)
{
    words_of = garbage;
    gpa_seg all = {0, PAGES * UINT64_C(4096), 0};
    vmie_mem* m = vgpux_mem_open_reader(reader, NULL, &all, 1);
    CHECK(m != NULL);
    words = 0;
    vmie_win32* v = vmie_win32_open(m, 0);
    printf("vmie_win32_open over garbage: %" PRIu64 " words read of %" PRIu64 "\n", words, bound(PAGES));
    CHECK(words > PAGES && words <= bound(PAGES));
    vmie_win32_close(v);
    for (uint64_t budget = 1; budget <= 1000000; budget *= 100) {
        vgpux_scan* s = vgpux_scan_begin(m, 0);
        CHECK(s != NULL);
        step_on(s, budget, 200);
        vgpux_scan_close(s);
    }
    vmie_mem_close(m);
}

/* A root that looks like Windows', under which the tables in which its kernel is looked for do not end. */
static void endless_attach(const vgpux_reader* reader, uint64_t kcr3)
{
    words_of = file;
    uint64_t pages = 0;
    for (size_t i = 0; i < n_segs; i++) {
        pages += segs[i].len / 4096;
    }
    vmie_mem* m = vgpux_mem_open_reader(reader, NULL, segs, n_segs);
    CHECK(m != NULL);
    words = 0;
    vmie_win32* v = vmie_win32_open(m, kcr3);
    printf("vmie_win32_open: %" PRIu64 " words read of %" PRIu64 "\n", words, bound(pages));
    CHECK(words <= bound(pages) && words > 1000000);
    vmie_win32_close(v);
    words = 0;
    vgpux_scan* s = vgpux_scan_begin(m, kcr3);
    vgpux_scan_progress at;
    CHECK(s != NULL && words <= BEGINNING);
    CHECK(vgpux_scan_get_progress(s, &at) == 0 && at.phase == VGPUX_PHASE_KERNEL);
    CHECK(vgpux_scan_kernel(s) == NULL && vgpux_last_error_code() == VGPUX_E_NOT_FOUND);
    int steps = 0;
    while (at.phase == VGPUX_PHASE_KERNEL) {
        CHECK(step_on(s, 65536, 1) != VGPUX_SCAN_DONE && ++steps < 10000);
        CHECK(vgpux_scan_get_progress(s, &at) == 0);
    }
    printf("vgpux_scan_begin: %d steps to the kernel\n", steps);
    /* It leads to no Windows, and then counts as a root of any kernel. */
    v = vgpux_scan_kernel(s);
    CHECK(steps > 30 && at.phase == VGPUX_PHASE_PROCESSES && v != NULL);
    vmie_win32_close(v);
    vgpux_scan_close(s);
    vmie_mem_close(m);
}

int main(int argc, char** argv)
{
    if (argc > 3) {
        for (int i = 3; i < argc; i++, n_segs++) {
            gpa_seg* seg = &segs[n_segs];
            CHECK(n_segs < 8 && sscanf(argv[i], "%" SCNx64 ":%" SCNx64 ":%" SCNx64, &seg->gpa, &seg->len, &seg->file_off) == 3);
        }
        int fd = open(argv[1], O_RDONLY);
        ram = mmap(NULL, segs[n_segs - 1].file_off + segs[n_segs - 1].len, PROT_READ, MAP_SHARED, fd, 0);
        CHECK(fd >= 0 && ram != MAP_FAILED);
        endless_attach(&batches, strtoull(argv[2], NULL, 0));
        endless_attach(&single, strtoull(argv[2], NULL, 0));
    } else {
        endless_tables(&batches);
        endless_tables(&single);
        garbage_everywhere(&batches);
        garbage_everywhere(&single);
    }
    puts("bounded");
    return 0;
}
