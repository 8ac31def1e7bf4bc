/* Takes one frame out of a running guest, through either kind of memory handle.
 *
 *   embed map  RAM [options]    the library maps the RAM file
 *   embed read RAM [options]    the library reads through a callback of this program
 *
 *   --seg GPA:LEN:OFFSET    a stretch of RAM and where it lies in the file; repeat for each. Without any: all of the file, from 0
 *   --kcr3 N                a root of the guest's kernel; without it, one is looked for
 *   --out FILE              stores the frame's bytes
 *
 * Prints the region, the frame, and the frame's checksum as the reference producer's --report has it. Exit status: 0 a frame was taken, 1 usage, 2 no
 * memory or no kernel, 3 no live region, 4 no frame.
 */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vgpu_perception.h"
#include "vgpu_perception_ext.h"

enum { MAX_SEGS = 16 };

/* Guest memory as this program has it: its own read-only mapping of the RAM file. */
struct guest {
    const unsigned char* bytes;
    gpa_seg segs[MAX_SEGS];
    size_t n;
};

/* The callback. An aligned word is one load, as memmodel.h asks: memcpy of a constant size is one on every compiler known to
 * the author, a volatile access says so. */
static int read_guest(void* ctx, uint64_t gpa, void* dst, size_t len)
{
    const struct guest* guest = ctx;
    for (size_t i = 0; i < guest->n; i++) {
        const gpa_seg* seg = &guest->segs[i];
        if (gpa < seg->gpa || gpa - seg->gpa >= seg->len || len > seg->len - (gpa - seg->gpa)) {
            continue;
        }
        const unsigned char* from = guest->bytes + seg->file_off + (gpa - seg->gpa);
        if (len == 8 && gpa % 8 == 0) {
            *(uint64_t*)dst = *(const volatile uint64_t*)from;
        } else if (len == 4 && gpa % 4 == 0) {
            *(uint32_t*)dst = *(const volatile uint32_t*)from;
        } else {
            memcpy(dst, from, len);
        }
        return 0;
    }
    return -1;
}

static int map_guest(struct guest* guest, const char* path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (fd < 0 || fstat(fd, &about) != 0) {
        perror(path);
        return -1;
    }
    void* at = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED) {
        perror(path);
        return -1;
    }
    guest->bytes = at;
    if (guest->n == 0) {
        guest->segs[guest->n++] = (gpa_seg){0, (uint64_t)about.st_size, 0};
    }
    return 0;
}

static void wait_ms(unsigned ms)
{
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&time, NULL);
}

static int fail(const char* what, int status)
{
    char why[256];
    vgpux_last_error(why, sizeof why);
    fprintf(stderr, "embed: %s: %s\n", what, why);
    return status;
}

/* Says which process has that root, where the guest's kernel lists its processes. */
static void name_process(vmie_win32* v, uint64_t cr3)
{
    enum { MOST = 512 };
    static process list[MOST];
    int n = proc_list(v, list, MOST);
    for (int i = 0; i < n && i < MOST; i++) {
        if (list[i].cr3 == cr3 && list[i].pid != 0) {
            printf("process %u %s eprocess=0x%" PRIx64 " peb=0x%" PRIx64 "\n", list[i].pid, list[i].name,
                   list[i].eprocess, list[i].peb);
        }
    }
}

/* The handshake: a region that is found, and whose heartbeat advances. Candidates that stand still are given up one by one. */
static vgpup_region* find_live(vmie_win32* v)
{
    vmie_mem* m = vmie_win32_mem(v);
    /* Candidates come in turn, so each has had its turn after as many as there are. */
    int candidates = vgpux_candidates(v, NULL, 0);
    for (int turn = 0; turn == 0 || turn < candidates; turn++) {
        vgpup_region* r = vgpup_open(v);
        if (r == NULL) {
            return NULL;
        }
        uint64_t proc_cr3, region_gva, hb0;
        if (vgpup_discover_candidate(v, &proc_cr3, &region_gva, &hb0) == 0) {
            wait_ms(VGPU_HEARTBEAT_PERIOD_MS + 100);
            if (vgpup_confirm_alive(m, proc_cr3, region_gva, hb0) == 1) {
                printf("region cr3=0x%" PRIx64 " gva=0x%" PRIx64 " alive=1\n", proc_cr3, region_gva);
                name_process(v, proc_cr3);
                return r;
            }
        }
        vgpup_close(r);
    }
    return NULL;
}

/* FNV-1a over little-endian 8-byte words; a frame's size is a multiple of 4. */
static uint64_t checksum(const uint8_t* bytes, size_t len)
{
    uint64_t sum = 0xcbf29ce484222325u;
    size_t at = 0;
    for (; len - at >= 8; at += 8) {
        uint64_t word = 0;
        for (int i = 7; i >= 0; i--) {
            word = word << 8 | bytes[at + (size_t)i];
        }
        sum = (sum ^ word) * 0x100000001b3u;
    }
    for (; at < len; at++) {
        sum = (sum ^ bytes[at]) * 0x100000001b3u;
    }
    return sum;
}

static int take_frame(vgpup_region* r, vmie_mem* m, const char* out)
{
    static uint8_t buf[VGPU_SLOT_STRIDE];
    vgpup_frame_info fi;
    for (int tries = 0; tries < 200; tries++) {
        int got = vgpup_sample_frame(r, m, buf, sizeof buf, &fi);
        if (got < 0) {
            return fail("reading a frame", 4);
        }
        if (got == 0) {
            wait_ms(20);
            continue;
        }
        printf("frame id=%" PRIu64 " checksum=0x%016" PRIx64 " width=%u height=%u bytes=%zu\n", fi.desc.frame_id,
               checksum(buf, fi.bytes), fi.desc.width, fi.desc.height, fi.bytes);
        if (out != NULL) {
            FILE* file = fopen(out, "wb");
            if (file == NULL || fwrite(buf, 1, fi.bytes, file) != fi.bytes || fclose(file) != 0) {
                perror(out);
                return 4;
            }
        }
        return 0;
    }
    return fail("no frame within 4 s", 4);
}

static void print_rest(vgpup_region* r, vmie_mem* m)
{
    vgpup_status status;
    if (vgpup_read_status(r, m, &status) == 0) {
        printf("status=%u backend=%u run_epoch=%u fps=%u\n", status.status, status.backend, vgpup_run_epoch(r),
               status.applied_fps);
    }
    vgpup_cursor cursor;
    if (vgpup_read_cursor(r, m, &cursor) == 1) {
        printf("cursor x=%d y=%d visible=%u id=%u\n", cursor.x, cursor.y, cursor.visible, cursor.id);
    }
    vgpup_geometry geometry;
    if (vgpup_read_geometry(r, m, &geometry) == 1) {
        printf("geometry %ux%u at %u dpi\n", geometry.virt_w, geometry.virt_h, geometry.dpi);
    }
}

int main(int argc, char** argv)
{
    struct guest guest = {0};
    uint64_t kcr3 = 0;
    const char* out = NULL;
    int bad = argc < 3 || (strcmp(argv[1], "map") != 0 && strcmp(argv[1], "read") != 0);
    for (int i = 3; !bad && i < argc; i += 2) {
        gpa_seg seg;
        if (i + 1 == argc) {
            bad = 1;
        } else if (strcmp(argv[i], "--kcr3") == 0) {
            kcr3 = strtoull(argv[i + 1], NULL, 0);
        } else if (strcmp(argv[i], "--out") == 0) {
            out = argv[i + 1];
        } else if (strcmp(argv[i], "--seg") == 0 && guest.n < MAX_SEGS &&
                   sscanf(argv[i + 1], "%" SCNi64 ":%" SCNi64 ":%" SCNi64, (int64_t*)&seg.gpa, (int64_t*)&seg.len,
                          (int64_t*)&seg.file_off) == 3) {
            guest.segs[guest.n++] = seg;
        } else {
            bad = 1;
        }
    }
    if (bad) {
        fprintf(stderr, "usage: embed map|read RAM [--seg GPA:LEN:OFFSET]... [--kcr3 N] [--out FILE]\n");
        return 1;
    }
    vmie_mem* m;
    if (strcmp(argv[1], "read") == 0) {
        m = map_guest(&guest, argv[2]) == 0 ? vmie_mem_from_reader(read_guest, &guest) : NULL;
    } else {
        m = guest.n > 0 ? vmie_mem_open_segs(argv[2], guest.segs, guest.n) : vmie_mem_open(argv[2]);
    }
    if (m == NULL) {
        return fail(argv[2], 2);
    }
    vmie_win32* v = vmie_win32_open(m, kcr3);
    int status = 0;
    if (v == NULL) {
        status = fail("no kernel in guest memory", 2);
    } else {
        vgpup_region* r = find_live(v);
        if (r == NULL) {
            status = fail("no live region", 3);
        } else {
            status = take_frame(r, m, out);
            print_rest(r, m);
            vgpup_close(r);
        }
        vmie_win32_close(v);
    }
    vmie_mem_close(m);
    return status;
}
