/* Every pixel of every frame, while the producer writes: pixels sample|naive RAM KCR3 CR3 GVA FORGED_CR3 GPA:LEN:OFFSET...
 *
 * Pixel i of frame n is n * 2654435761 ^ i. `naive` takes frames without looking at their sequence numbers, which a check of pixels
 * has to notice: if it did not, it would notice nothing.
 */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include "check.h"

static union {
    uint8_t bytes[VGPU_SLOT_STRIDE];
    uint32_t pixels[VGPU_SLOT_STRIDE / 4];
} frame;

static int is_whole(uint64_t frame_id, size_t bytes)
{
    uint32_t key = (uint32_t)frame_id * 2654435761u;
    for (size_t i = 0; i < bytes / 4; i++) {
        if (frame.pixels[i] != (key ^ (uint32_t)i)) {
            return 0;
        }
    }
    return 1;
}

/* A reader that believes in luck. */
static int naive(vmie_mem* m, uint64_t cr3, uint64_t gva, uint64_t* frame_id, size_t* bytes)
{
    static uint64_t last;
    uint32_t latest;
    vgpu_desc_t desc;
    CHECK(gva_read(m, cr3, gva + offsetof(vgpu_producer_t, latest), &latest, sizeof latest) == 0 && latest < VGPU_SLOT_COUNT);
    CHECK(gva_read(m, cr3, gva + offsetof(vgpu_producer_t, desc) + latest * sizeof desc, &desc, sizeof desc) == 0);
    if (desc.frame_id == last) {
        return 0;
    }
    *frame_id = last = desc.frame_id;
    *bytes = (size_t)desc.stride * desc.height;
    /* Late, as a thread is that was not scheduled. */
    nanosleep(&(struct timespec){0, 3000000}, NULL);
    return gva_read(m, cr3, gva + VGPU_RING_OFFSET + (uint64_t)latest * VGPU_SLOT_STRIDE, frame.bytes, *bytes) == 0 ? 1 : -1;
}

int main(int argc, char** argv)
{
    CHECK(argc >= 8);
    uint64_t kcr3 = strtoull(argv[3], NULL, 0), cr3 = strtoull(argv[4], NULL, 0), gva = strtoull(argv[5], NULL, 0);
    gpa_seg segs[8];
    size_t n = 0;
    for (int i = 7; i < argc; i++, n++) {
        CHECK(n < 8 && sscanf(argv[i], "%" SCNx64 ":%" SCNx64 ":%" SCNx64, &segs[n].gpa, &segs[n].len, &segs[n].file_off) == 3);
    }
    vmie_mem* m = vmie_mem_open_segs(argv[2], segs, n);
    vmie_win32* v = vmie_win32_open(m, kcr3);
    vgpux_candidate c = {.proc_cr3 = cr3, .region_gva = gva};
    vgpup_region* r = vgpux_region_open(v, &c);
    CHECK(r != NULL);
    int lucky = strcmp(argv[1], "naive") == 0;
    long whole = 0, mixed = 0;
    for (time_t end = time(NULL) + 3; time(NULL) < end;) {
        vgpup_frame_info info;
        uint64_t frame_id = 0;
        size_t bytes = 0;
        int got;
        if (lucky) {
            got = naive(m, cr3, gva, &frame_id, &bytes);
        } else {
            got = vgpup_sample_frame(r, m, frame.bytes, sizeof frame, &info);
            frame_id = info.desc.frame_id;
            bytes = info.bytes;
        }
        CHECK(got >= 0);
        /* The guest began with a picture of another kind. */
        if (got == 1 && frame_id > 5) {
            *(is_whole(frame_id, bytes) ? &whole : &mixed) += 1;
        }
    }
    printf("%ld whole, %ld mixed\n", whole, mixed);
    vgpup_close(r);
    vmie_win32_close(v);
    vmie_mem_close(m);
    return 0;
}
