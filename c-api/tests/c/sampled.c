/* A guest that samples who uses the region's first page: sampled RAM KCR3 CR3 GVA FORGED_CR3 GPA:LEN:OFFSET...
 *
 * Linux takes present, writable and user from the entry for a while, and keeps the page. Reads give 0 and say why, and go on after.
 */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include "check.h"

static gpa_seg segs[8];
static size_t n_segs;
static unsigned char* ram;

static uint64_t* word(uint64_t gpa)
{
    for (size_t i = 0; i < n_segs; i++) {
        if (gpa >= segs[i].gpa && gpa - segs[i].gpa < segs[i].len) {
            return (uint64_t*)(void*)(ram + segs[i].file_off + (gpa - segs[i].gpa));
        }
    }
    abort();
}

/* The last entry on the way to gva, in tables of four levels. */
static uint64_t* entry_of(uint64_t cr3, uint64_t gva)
{
    const uint64_t address = 0x000ffffffffff000;
    uint64_t table = cr3 & address;
    for (int shift = 39; shift > 12; shift -= 9) {
        table = *word(table + (gva >> shift & 511) * 8) & address;
    }
    return word(table + (gva >> 12 & 511) * 8);
}

static void skipped(vgpup_region* r, int got)
{
    vgpux_skip skip;
    CHECK(got == 0 && vgpux_last_skip(r, &skip) == 0 && skip.reason == VGPUX_SKIP_SAMPLED);
}

int main(int argc, char** argv)
{
    CHECK(argc > 6);
    for (int i = 6; i < argc; i++, n_segs++) {
        gpa_seg* seg = &segs[n_segs];
        CHECK(n_segs < 8 && sscanf(argv[i], "%" SCNx64 ":%" SCNx64 ":%" SCNx64, &seg->gpa, &seg->len, &seg->file_off) == 3);
    }
    int fd = open(argv[1], O_RDWR);
    ram = mmap(NULL, segs[n_segs - 1].file_off + segs[n_segs - 1].len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(fd >= 0 && ram != MAP_FAILED);
    vmie_mem* m = vmie_mem_open_segs(argv[1], segs, n_segs);
    vmie_win32* v = vmie_win32_open(m, strtoull(argv[2], NULL, 0));
    vgpux_candidate c = {.proc_cr3 = strtoull(argv[3], NULL, 0), .region_gva = strtoull(argv[4], NULL, 0)};
    vgpup_region* r = vgpux_region_open(v, &c);
    vgpup_cursor cursor;
    CHECK(r != NULL && vgpup_read_cursor(r, m, &cursor) == 1);

    /* pte_modify(pte, PAGE_NONE): G says why, and the page's number is inverted. */
    uint64_t* entry = entry_of(c.proc_cr3, c.region_gva);
    uint64_t before = *entry, number = 0x000ffffffffff000;
    CHECK((before & 7) == 7);
    *entry = (before & (UINT64_C(1) << 63 | 0xe60)) | 0x100 | (~before & number);
    vgpup_geometry geometry;
    uint64_t heartbeat;
    static uint8_t buf[VGPU_SLOT_STRIDE];
    vgpup_frame_info fi;
    vgpup_status status;
    skipped(r, vgpup_read_cursor(r, m, &cursor));
    skipped(r, vgpup_read_geometry(r, m, &geometry));
    skipped(r, vgpux_read_heartbeat(r, m, &heartbeat, NULL));
    skipped(r, vgpup_sample_frame(r, m, buf, sizeof buf, &fi));
    /* It has no 0: see vgpu_perception.h. */
    CHECK(vgpup_read_status(r, m, &status) == VGPUX_E_READ);
    char why[256];
    CHECK(vgpux_last_error(why, sizeof why) > 0 && strstr(why, "sampling") != NULL);

    *entry = before;
    CHECK(vgpup_read_cursor(r, m, &cursor) == 1 && vgpup_read_status(r, m, &status) == 0);
    CHECK(vgpup_sample_frame(r, m, buf, sizeof buf, &fi) == 1);
    vgpux_skip skip;
    CHECK(vgpux_last_skip(r, &skip) == 0 && skip.reason == VGPUX_SKIP_NONE);
    vgpup_close(r);
    vmie_win32_close(v);
    vmie_mem_close(m);
    puts("sampled");
    return 0;
}
