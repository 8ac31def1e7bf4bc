/* What a call costs: speed RAM CR3 GVA KCR3 GPA:LEN:OFFSET...
 *
 * Prints nanoseconds a call of vgpup_read_cursor on one thread, and how many times as much two threads with a region each do.
 * Beside it the same for a loop that touches no memory: what this machine's second processor is worth at that moment.
 */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include "check.h"

/* Fewer where instructions are counted: VGPU_TEST_CFLAGS="-DSPEED_CALLS=1000 -DSPEED_ROUNDS=1". */
#ifndef SPEED_CALLS
#define SPEED_CALLS 2000000
#define SPEED_ROUNDS 9
#endif
enum { CALLS = SPEED_CALLS, STEPS = 10 * CALLS, ROUNDS = SPEED_ROUNDS };

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static vmie_mem* m;

struct work {
    vgpup_region* r;
    pthread_barrier_t* start;
    double end, begin;
};

static void* run(void* at)
{
    struct work* work = at;
    vgpup_cursor cursor;
    CHECK(work->r == NULL || vgpup_read_cursor(work->r, m, &cursor) == 1);
    pthread_barrier_wait(work->start);
    work->begin = now();
    for (int i = 0; work->r != NULL && i < CALLS; i++) {
        if (vgpup_read_cursor(work->r, m, &cursor) != 1) {
            abort();
        }
    }
    uint64_t x = 1;
    for (int i = 0; work->r == NULL && i < STEPS; i++) {
        x = x * 6364136223846793005u + 1;
        __asm__ volatile("" : "+r"(x));
    }
    work->end = now();
    return NULL;
}

/* Seconds that `n` threads take for CALLS each; without a region, for STEPS. */
static double threads(vgpup_region** regions, unsigned n)
{
    pthread_t thread[2];
    struct work work[2];
    pthread_barrier_t start;
    CHECK(n <= 2 && pthread_barrier_init(&start, NULL, n) == 0);
    for (unsigned i = 0; i < n; i++) {
        work[i] = (struct work){.r = regions[i], .start = &start};
        CHECK(pthread_create(&thread[i], NULL, run, &work[i]) == 0);
    }
    double begin = 0, end = 0;
    for (unsigned i = 0; i < n; i++) {
        CHECK(pthread_join(thread[i], NULL) == 0);
        begin = i == 0 || work[i].begin < begin ? work[i].begin : begin;
        end = work[i].end > end ? work[i].end : end;
    }
    pthread_barrier_destroy(&start);
    return end - begin;
}

static int order(const void* a, const void* b)
{
    double x = *(const double*)a, y = *(const double*)b;
    return (x > y) - (x < y);
}

int main(int argc, char** argv)
{
    CHECK(argc >= 6);
    gpa_seg segs[8];
    size_t n = 0;
    for (int i = 5; i < argc; i++, n++) {
        CHECK(n < 8 && sscanf(argv[i], "%" SCNx64 ":%" SCNx64 ":%" SCNx64, &segs[n].gpa, &segs[n].len, &segs[n].file_off) == 3);
    }
    m = vmie_mem_open_segs(argv[1], segs, n);
    vmie_win32* v = vmie_win32_open(m, strtoull(argv[4], NULL, 0));
    vgpux_candidate c = {.proc_cr3 = strtoull(argv[2], NULL, 0), .region_gva = strtoull(argv[3], NULL, 0)};
    vgpup_region* regions[2] = {vgpux_region_open(v, &c), vgpux_region_open(v, &c)};
    CHECK(regions[0] != NULL && regions[1] != NULL);
    vgpup_region* none[2] = {NULL, NULL};
    double one[ROUNDS], ratio[ROUNDS], bare[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        double alone = threads(regions, 1);
        one[i] = alone / CALLS * 1e9;
        ratio[i] = 2 * alone / threads(regions, 2);
        bare[i] = 2 * threads(none, 1) / threads(none, 2);
    }
    qsort(one, ROUNDS, sizeof *one, order);
    qsort(ratio, ROUNDS, sizeof *ratio, order);
    qsort(bare, ROUNDS, sizeof *bare, order);
    printf("%.2f ns, least %.2f; two threads do %.2f times as much, at best %.2f; of a loop without memory %.2f, at best %.2f\n",
           one[ROUNDS / 2], one[0], ratio[ROUNDS / 2], ratio[ROUNDS - 1], bare[ROUNDS / 2], bare[ROUNDS - 1]);
    return 0;
}
