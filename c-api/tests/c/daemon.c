/* What a program with many threads relies on: daemon RAM KCR3 CR3 GVA FORGED_CR3 GPA:LEN:OFFSET...
 *
 * Nothing fails because something else runs: other threads on the same handles, a handle that is closed in use, a signal handler, a
 * child of fork, a real-time thread that stops the one it shares a handle with.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "check.h"

static uint64_t kcr3, cr3, gva;
static gpa_seg segs[8];
static size_t n_segs;
static vmie_mem* m;
static vmie_win32* v;
static vgpup_region* r;
static int stop;
static long fresh, busy, skipped;

static void nap(long ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&time, &time) != 0 && errno == EINTR) {
    }
}

static int stopped(void)
{
    return __atomic_load_n(&stop, __ATOMIC_RELAXED);
}

static void count(long* what)
{
    __atomic_fetch_add(what, 1, __ATOMIC_RELAXED);
}

static void* cursors(void* unused)
{
    (void)unused;
    vgpup_cursor cursor;
    vgpup_geometry geometry;
    while (!stopped()) {
        CHECK(vgpup_read_cursor(r, m, &cursor) == 1 && cursor.x == 17);
        CHECK(vgpup_read_geometry(r, m, &geometry) == 1 && geometry.virt_w == 64);
    }
    return NULL;
}

static void* frames(void* unused)
{
    (void)unused;
    static __thread uint8_t frame[64 * 48 * 4];
    vgpup_frame_info info;
    vgpux_skip skip;
    while (!stopped()) {
        int got = vgpup_sample_frame(r, m, frame, sizeof frame, &info);
        CHECK(got >= 0 && vgpux_last_skip(r, &skip) == 0);
        if (got == 1) {
            count(&fresh);
            CHECK(skip.reason == VGPUX_SKIP_NONE && info.bytes == sizeof frame);
        } else if (skip.reason == VGPUX_SKIP_BUSY_HANDLE) {
            count(&busy);
        } else {
            CHECK(skip.reason == VGPUX_SKIP_UNCHANGED);
            count(&skipped);
        }
        CHECK(vgpux_forget_frames(r) == 0);
    }
    return NULL;
}

static void* epochs(void* unused)
{
    (void)unused;
    vgpup_status status;
    while (!stopped()) {
        CHECK(vgpup_run_epoch(r) == 1);
        CHECK(vgpup_read_status(r, m, &status) == 0 && status.run_epoch == 1);
        CHECK(vgpup_confirm_alive(m, cr3, gva, status.heartbeat) >= 0);
    }
    return NULL;
}

static void* opens(void* unused)
{
    (void)unused;
    while (!stopped()) {
        uint64_t c, g, h;
        vgpup_region* own = vgpup_open(v);
        CHECK(own != NULL && vgpup_discover_candidate(v, &c, &g, &h) == 0);
        CHECK(vgpux_candidates(v, NULL, 0) == 2);
        vgpup_close(own);
    }
    return NULL;
}

static void together(void* (*one)(void*), void* (*two)(void*))
{
    pthread_t threads[2];
    __atomic_store_n(&stop, 0, __ATOMIC_RELAXED);
    CHECK(pthread_create(&threads[0], NULL, one, NULL) == 0 && pthread_create(&threads[1], NULL, two, NULL) == 0);
    nap(300);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    CHECK(pthread_join(threads[0], NULL) == 0 && pthread_join(threads[1], NULL) == 0);
}

/* A read of a closed handle is refused, and one that is under way ends as it began. */
static void* until_closed(void* own)
{
    vgpup_cursor cursor;
    int got;
    while ((got = vgpup_read_cursor(own, m, &cursor)) == 1) {
        CHECK(cursor.x == 17);
    }
    CHECK(got == VGPUX_E_HANDLE && vgpux_last_error_code() == VGPUX_E_HANDLE);
    return NULL;
}

static void closed_in_use(void)
{
    for (int i = 0; i < 50; i++) {
        vgpux_candidate c = {.proc_cr3 = cr3, .region_gva = gva};
        vgpup_region* own = vgpux_region_open(v, &c);
        pthread_t threads[2];
        CHECK(own != NULL && pthread_create(&threads[0], NULL, until_closed, own) == 0);
        CHECK(pthread_create(&threads[1], NULL, until_closed, own) == 0);
        nap(1);
        vgpup_close(own);
        /* Most likely at the same address, and another handle all the same. */
        vgpup_region* other = vgpux_region_open(v, &c);
        vgpup_cursor cursor;
        CHECK(other != own && vgpup_read_cursor(own, m, &cursor) == VGPUX_E_HANDLE);
        vgpup_close(own);
        CHECK(vgpup_read_cursor(other, m, &cursor) == 1);
        CHECK(pthread_join(threads[0], NULL) == 0 && pthread_join(threads[1], NULL) == 0);
        vgpup_close(other);
    }
}

/* Another guest's memory is refused, and so is what was opened on memory that was closed, whatever was opened since. */
static void right_guest(void)
{
    vgpup_cursor cursor;
    vgpup_frame_info info;
    uint8_t byte;
    vmie_mem* other = vmie_mem_open_segs("/proc/self/exe", &(gpa_seg){0, 4096, 0}, 1);
    CHECK(other != NULL && vgpup_read_cursor(r, other, &cursor) == VGPUX_E_ARGUMENT);
    CHECK(vgpux_last_error_code() == VGPUX_E_ARGUMENT && vgpup_sample_frame(r, other, &byte, 1, &info) == VGPUX_E_ARGUMENT);
    vmie_mem_close(other);
    CHECK(vgpup_read_cursor(r, other, &cursor) == VGPUX_E_HANDLE);
}

static void after_the_memory(const char* ram)
{
    vmie_mem* old = vmie_mem_open_segs(ram, segs, n_segs);
    vmie_win32* of_old = vmie_win32_open(old, kcr3);
    vgpup_region* region = vgpup_open(of_old);
    vgpup_cursor cursor;
    CHECK(region != NULL && vgpup_read_cursor(region, old, &cursor) == 1);
    vmie_mem_close(old);
    vmie_mem* new = vmie_mem_open_segs(ram, segs, n_segs);
    CHECK(new != NULL && new != old && proc_list(of_old, NULL, 0) == VGPUX_E_HANDLE && vgpup_open(of_old) == NULL);
    CHECK(vgpux_last_error_code() == VGPUX_E_HANDLE && vgpup_read_cursor(region, old, &cursor) == VGPUX_E_HANDLE);
    CHECK(vgpup_read_cursor(region, new, &cursor) == VGPUX_E_ARGUMENT);
    vgpup_close(region);
    vmie_win32_close(of_old);
    vmie_mem_close(new);
}

#ifndef __SANITIZE_ADDRESS__
/* A child in which nothing more can be allocated: NULL and a code, and the program goes on. */
static void no_memory(const char* ram)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        long pages = 0;
        FILE* file = fopen("/proc/self/statm", "r");
        CHECK(file != NULL && fscanf(file, "%ld", &pages) == 1 && fclose(file) == 0);
        rlim_t most = (rlim_t)pages * 4096 + (1 << 20);
        CHECK(setrlimit(RLIMIT_AS, &(struct rlimit){most, most}) == 0);
        /* The kernel has no room for a mapping as large as the guest: no bad file, and no bad map. */
        CHECK(vmie_mem_open_segs(ram, segs, n_segs) == NULL && vgpux_last_error_code() == VGPUX_E_MEMORY);
        int opened = 0;
        while (opened < 10000 && vmie_win32_open(m, kcr3) != NULL) {
            opened++;
        }
        CHECK(opened < 10000 && vgpux_last_error_code() == VGPUX_E_MEMORY);
        vgpup_cursor cursor;
        CHECK(vgpup_read_cursor(r, m, &cursor) == 1);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

#endif

static volatile sig_atomic_t handled, failed;

static void on_alarm(int unused)
{
    (void)unused;
    vgpup_cursor cursor;
    vgpup_status status;
    uint8_t byte;
    vgpup_frame_info info;
    if (vgpup_read_cursor(r, m, &cursor) != 1 || cursor.x != 17 || vgpup_read_status(r, m, &status) != 0 ||
        vgpup_run_epoch(r) != 1 || vgpup_sample_frame(r, m, &byte, 1, &info) != 0) {
        failed++;
    }
    handled++;
}

static void signals(void)
{
    struct itimerval every = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    struct sigaction action = {.sa_handler = on_alarm};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &every, NULL) == 0);
    static uint8_t frame[64 * 48 * 4];
    for (int i = 0; i < 100000 || handled < 50; i++) {
        vgpup_cursor cursor;
        vgpup_frame_info info;
        CHECK(vgpup_read_cursor(r, m, &cursor) == 1 && cursor.x == 17);
        CHECK(vgpup_sample_frame(r, m, frame, sizeof frame, &info) >= 0 && vgpux_forget_frames(r) == 0);
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    signal(SIGALRM, SIG_DFL);
    CHECK(failed == 0);
}

/* A child has handles of its own, which are copies: it reads and closes them, and the parent's stay. */
static void children(void)
{
    pthread_t thread;
    __atomic_store_n(&stop, 0, __ATOMIC_RELAXED);
    CHECK(pthread_create(&thread, NULL, frames, NULL) == 0);
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            vgpup_cursor cursor;
            CHECK(vgpup_read_cursor(r, m, &cursor) == 1 && cursor.x == 17);
            vgpup_region* own = vgpup_open(v);
            CHECK(own != NULL && vgpup_read_cursor(own, m, &cursor) == 1);
            vgpup_close(own);
            vgpup_close(r);
            vmie_win32_close(v);
            vmie_mem_close(m);
            CHECK(vgpup_read_cursor(r, m, &cursor) == VGPUX_E_HANDLE);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* On one processor, above the thread whose handle it shares: if anything waited, it would wait for ever. */
static void* real_time(void* unused)
{
    (void)unused;
    static uint8_t frame[64 * 48 * 4];
    for (int i = 0; i < 300; i++) {
        vgpup_cursor cursor;
        vgpup_frame_info info;
        uint64_t c, g, h;
        CHECK(vgpup_read_cursor(r, m, &cursor) == 1 && vgpup_sample_frame(r, m, frame, sizeof frame, &info) >= 0);
        CHECK(i % 50 != 0 || vgpup_discover_candidate(v, &c, &g, &h) == 0);
        nap(1);
    }
    return NULL;
}

static void priorities(void)
{
    pthread_t low, high;
    cpu_set_t cpu;
    CPU_ZERO(&cpu);
    CPU_SET(sched_getcpu(), &cpu);
    pthread_attr_t attr;
    CHECK(pthread_attr_init(&attr) == 0 && pthread_attr_setaffinity_np(&attr, sizeof cpu, &cpu) == 0);
    __atomic_store_n(&stop, 0, __ATOMIC_RELAXED);
    CHECK(pthread_create(&low, &attr, frames, NULL) == 0);
    struct sched_param param = {.sched_priority = 1};
    CHECK(pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED) == 0);
    CHECK(pthread_attr_setschedpolicy(&attr, SCHED_FIFO) == 0 && pthread_attr_setschedparam(&attr, &param) == 0);
    int error = pthread_create(&high, &attr, real_time, NULL);
    if (error == EPERM) {
        puts("SKIPPED: a real-time thread: this user may not make one");
    } else {
        CHECK(error == 0 && pthread_join(high, NULL) == 0);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    CHECK(pthread_join(low, NULL) == 0);
    pthread_attr_destroy(&attr);
}

int main(int argc, char** argv)
{
    CHECK(argc >= 7);
    kcr3 = strtoull(argv[2], NULL, 0);
    cr3 = strtoull(argv[3], NULL, 0);
    gva = strtoull(argv[4], NULL, 0);
    for (int i = 6; i < argc; i++, n_segs++) {
        gpa_seg* seg = &segs[n_segs];
        CHECK(n_segs < 8 && sscanf(argv[i], "%" SCNx64 ":%" SCNx64 ":%" SCNx64, &seg->gpa, &seg->len, &seg->file_off) == 3);
    }
    m = vmie_mem_open_segs(argv[1], segs, n_segs);
    v = vmie_win32_open(m, kcr3);
    vgpux_candidate c = {.proc_cr3 = cr3, .region_gva = gva};
    r = vgpux_region_open(v, &c);
    vgpup_status status;
    CHECK(r != NULL && vgpup_read_status(r, m, &status) == 0);
    together(cursors, cursors);
    together(frames, cursors);
    together(frames, frames);
    CHECK(fresh > 100);
    together(frames, epochs);
    together(opens, opens);
    together(opens, epochs);
    closed_in_use();
    right_guest();
    after_the_memory(argv[1]);
#ifndef __SANITIZE_ADDRESS__
    no_memory(argv[1]);
#endif
    signals();
    children();
    priorities();
    printf("nothing failed: %ld frames, %ld times another call had the handle, %ld unchanged\n", fresh, busy, skipped);
    return 0;
}
