/* Perception of a guest whose RAM nobody shares: read out of the machine's process, by process_vm_readv.
 *
 *   process PID MIB [--kcr3 N]        the guest's RAM is the mapping of MIB mebibytes in process PID, from guest physical 0 on
 *
 * Each function of a vgpux_reader is one system call, however many pieces it reads. Needs the right to trace that process: the same
 * user and no ptrace scope, or CAP_SYS_PTRACE. Linux, x86-64 or AArch64.
 *
 * A copy by the kernel promises nothing about single loads. It copies aligned words whole on these machines, and the sequence numbers
 * are checked by later calls, so a torn frame is noticed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <vgpu_perception.h>
#include <vgpu_perception_ext.h>

struct guest {
    pid_t pid;
    uint64_t at, len;
    int pagemap; /* -1 where it does not say what was written: the mapping is a file's */
    unsigned char* written; /* of each page, whether it was */
    double seen_until; /* when to look again */
    unsigned long calls;
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec * 1e-6;
}

static int inside(const struct guest* guest, uint64_t gpa, size_t len)
{
    return gpa < guest->len && len <= guest->len - gpa;
}

static struct iovec there(const struct guest* guest, uint64_t gpa, size_t len)
{
    return (struct iovec){(void*)(uintptr_t)(guest->at + gpa), len};
}

/* Bytes that were read before the first that could not be. */
static ssize_t readv_guest(struct guest* guest, const struct iovec* to, const struct iovec* from, size_t n)
{
    guest->calls++;
    return process_vm_readv(guest->pid, to, n, from, n, 0);
}

static int read_guest(void* ctx, uint64_t gpa, void* dst, size_t len)
{
    struct guest* guest = ctx;
    if (!inside(guest, gpa, len)) {
        return -EFAULT;
    }
    struct iovec to = {dst, len}, from = there(guest, gpa, len);
    return readv_guest(guest, &to, &from, 1) == (ssize_t)len ? 0 : -errno;
}

static int read_words(void* ctx, uint64_t gpa, uint64_t* words, size_t n)
{
    return read_guest(ctx, gpa, words, n * sizeof *words);
}

static int read_pieces(void* ctx, const vgpux_piece* pieces, size_t n)
{
    struct guest* guest = ctx;
    struct iovec to[64], from[64];
    size_t all = 0;
    for (size_t i = 0; i < n; i++) {
        if (!inside(guest, pieces[i].gpa, pieces[i].len)) {
            return -EFAULT;
        }
        to[i] = (struct iovec){pieces[i].dst, pieces[i].len};
        from[i] = there(guest, pieces[i].gpa, pieces[i].len);
        all += pieces[i].len;
    }
    return readv_guest(guest, to, from, n) == (ssize_t)all ? 0 : -errno;
}

static size_t load_lines(void* ctx, const uint64_t* gpas, uint64_t (*lines)[8], size_t n)
{
    struct guest* guest = ctx;
    struct iovec from[256];
    size_t good = 0, ranges = 0;
    while (good < n && good < 256 && inside(guest, gpas[good], 64)) {
        /* Lines side by side are one range: the kernel looks each range's page up anew. */
        if (good > 0 && gpas[good] == gpas[good - 1] + 64) {
            from[ranges - 1].iov_len += 64;
        } else {
            from[ranges++] = there(guest, gpas[good], 64);
        }
        good++;
    }
    struct iovec to = {lines, good * 64};
    guest->calls++;
    ssize_t got = good == 0 ? 0 : process_vm_readv(guest->pid, &to, 1, from, ranges, 0);
    return got < 0 ? 0 : (size_t)got / 64;
}

/* Which pages were ever written, as the kernel's page map of the process says: in memory, or in swap. */
static int look_at_pages(struct guest* guest)
{
    uint64_t entries[4096], end = guest->len / 4096;
    double start = now();
    for (uint64_t page = 0, got; page < end; page += got) {
        uint64_t n = end - page < 4096 ? end - page : 4096;
        guest->calls++;
        ssize_t bytes = pread(guest->pagemap, entries, n * 8, (off_t)((guest->at / 4096 + page) * 8));
        if (bytes < 8) {
            return -1;
        }
        got = (uint64_t)bytes / 8;
        for (uint64_t i = 0; i < got; i++) {
            guest->written[page + i] = entries[i] >> 62 != 0;
        }
    }
    /* A search asks about thousands of pages at once: at most a twentieth of the time goes into looking. */
    guest->seen_until = now() + 20 * (now() - start);
    return 0;
}

/* The first stretch of pages that were ever written. The others of a private mapping read as zeros, and a search need not look at them. */
static int next_data(void* ctx, uint64_t from, uint64_t* start, uint64_t* len)
{
    struct guest* guest = ctx;
    uint64_t page = from / 4096, end = guest->len / 4096;
    /* What was written stays so: a page that the guest gives back reads as zeros, too. */
    if (page < end && !guest->written[page] && now() > guest->seen_until && look_at_pages(guest) != 0) {
        return -1;
    }
    const unsigned char* first = page < end ? memchr(guest->written + page, 1, end - page) : NULL;
    if (first == NULL) {
        return 0;
    }
    page = (uint64_t)(first - guest->written);
    const unsigned char* last = memchr(first, 0, end - page);
    *start = page * 4096;
    *len = last == NULL ? end * 4096 - *start : (uint64_t)(last - first) * 4096;
    return 1;
}

/* The mapping of the process that is as long as the guest's RAM. */
static int find_ram(struct guest* guest)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/maps", (int)guest->pid);
    FILE* maps = fopen(path, "r");
    if (maps == NULL) {
        perror(path);
        return -1;
    }
    while (guest->at == 0 && fgets(line, sizeof line, maps) != NULL) {
        uint64_t start, end, inode;
        char shared;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*3c%c %*x %*x:%*x %" SCNu64, &start, &end, &shared, &inode) == 4
            && end - start == guest->len) {
            guest->at = start;
            snprintf(path, sizeof path, "/proc/%d/pagemap", (int)guest->pid);
            guest->pagemap = shared == 'p' && inode == 0 ? open(path, O_RDONLY) : -1;
        }
    }
    fclose(maps);
    if (guest->at == 0) {
        fprintf(stderr, "process %d has no mapping of %" PRIu64 " MiB\n", (int)guest->pid, guest->len >> 20);
        return -1;
    }
    return 0;
}

static int fail(const char* what)
{
    char why[256];
    vgpux_last_error(why, sizeof why);
    fprintf(stderr, "%s: %s\n", what, why);
    return 1;
}

/* The frame's bytes again, in one bare call for each 64 pages: what reading them costs at least. */
static double bare(struct guest* guest, vmie_mem* m, uint64_t cr3, uint64_t gva, size_t bytes, uint8_t* to)
{
    enum { MOST = VGPU_SLOT_STRIDE / 4096 };
    static vgpux_piece pieces[MOST];
    size_t n = 0;
    for (size_t at = 0; at < bytes; at += 4096, n++) {
        pieces[n] = (vgpux_piece){0, to + at, bytes - at < 4096 ? bytes - at : 4096};
        if (gva_to_gpa(m, cr3, gva + at, &pieces[n].gpa) != 0) {
            return -1;
        }
    }
    double start = now();
    for (size_t i = 0; i < n; i += 64) {
        if (read_pieces(guest, pieces + i, n - i < 64 ? n - i : 64) != 0) {
            return -1;
        }
    }
    return now() - start;
}

int main(int argc, char** argv)
{
    if (argc != 3 && !(argc == 5 && strcmp(argv[3], "--kcr3") == 0)) {
        fprintf(stderr, "usage: process PID MIB [--kcr3 N]\n");
        return 1;
    }
    struct guest guest = {.pid = (pid_t)atoi(argv[1]), .len = strtoull(argv[2], NULL, 0) << 20, .pagemap = -1};
    if (find_ram(&guest) != 0) {
        return 2;
    }
    guest.written = calloc(guest.len / 4096 + 1, 1);
    if (guest.written == NULL) {
        perror("guest");
        return 1;
    }
    const vgpux_reader reader = {
        .size = sizeof reader,
        .read = read_guest,
        .read_pieces = read_pieces,
        .read_words = read_words,
        .load_lines = load_lines,
        .next_data = guest.pagemap < 0 ? NULL : next_data,
        .batch = 256,
    };
    const gpa_seg ram = {0, guest.len, 0};
    double start = now();
    vmie_mem* m = vgpux_mem_open_reader(&reader, &guest, &ram, 1);
    vmie_win32* v = vmie_win32_open(m, argc == 5 ? strtoull(argv[4], NULL, 0) : 0);
    if (v == NULL) {
        return fail("no kernel");
    }
    printf("kernel: %.1f ms, %lu calls\n", now() - start, guest.calls);
    int candidates = vgpux_candidates(v, NULL, 0);
    uint64_t proc_cr3 = 0, region_gva = 0, hb0 = 0;
    vgpup_region* r = NULL;
    int alive = 0;
    for (int turn = 0; turn == 0 || (turn < candidates && !alive); turn++) {
        vgpup_close(r);
        start = now(), guest.calls = 0;
        r = vgpup_open(v);
        printf("region: %.1f ms, %lu calls\n", now() - start, guest.calls);
        if (r == NULL || vgpup_discover_candidate(v, &proc_cr3, &region_gva, &hb0) != 0) {
            return fail("no region");
        }
        nanosleep(&(struct timespec){0, (VGPU_HEARTBEAT_PERIOD_MS + 50) * 1000000L}, NULL);
        alive = vgpup_confirm_alive(m, proc_cr3, region_gva, hb0) == 1;
    }
    if (!alive) {
        return fail("no live region");
    }
    static uint8_t buf[VGPU_SLOT_STRIDE], again[VGPU_SLOT_STRIDE];
    vgpup_frame_info fi;
    for (int taken = 0, tries = 0; taken < 10 && tries < 500; tries++) {
        start = now(), guest.calls = 0;
        int got = vgpup_sample_frame(r, m, buf, sizeof buf, &fi);
        if (got < 0) {
            return fail("the producer's pages are gone: discover again");
        }
        if (got == 1) {
            double took = now() - start;
            unsigned long calls = guest.calls;
            uint64_t slot = region_gva + VGPU_RING_OFFSET;
            double least = bare(&guest, m, proc_cr3, slot, fi.bytes, again);
            printf("frame %" PRIu64 ", %ux%u: %.3f ms, %lu calls; its bytes alone %.3f ms\n", fi.desc.frame_id, fi.desc.width,
                   fi.desc.height, took, calls, least);
            taken++;
        }
        nanosleep(&(struct timespec){0, 2000000}, NULL);
    }
    vgpup_close(r);
    vmie_win32_close(v);
    vmie_mem_close(m);
    free(guest.written);
    return 0;
}
