/* From a guest's name to a frame, with both libraries: attach NAME */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <vgpu_perception.h>
#include <vgpu_perception_attach.h>

static int fail(const char* what, size_t (*last_error)(char*, size_t))
{
    char why[512];
    last_error(why, sizeof why);
    fprintf(stderr, "%s: %s\n", what, why);
    return 1;
}

int main(int argc, char** argv)
{
    vgpua_guest* g = vgpua_attach(argc > 1 ? argv[1] : NULL);
    if (g == NULL) {
        return fail("not attached", vgpua_last_error);
    }
    vmie_mem* m = vgpua_mem_open(g);
    vmie_win32* v = vmie_win32_open(m, vgpua_root(g));
    if (v == NULL) {
        v = vmie_win32_open(m, 0);
    }
    if (v == NULL) {
        return fail("no kernel", vgpux_last_error);
    }
    int candidates = vgpux_candidates(v, NULL, 0), alive = 0;
    vgpup_region* r = NULL;
    for (int turn = 0; turn == 0 || (turn < candidates && !alive); turn++) {
        uint64_t cr3, gva, hb0;
        vgpup_close(r);
        r = vgpup_open(v);
        if (r == NULL || vgpup_discover_candidate(v, &cr3, &gva, &hb0) != 0) {
            return fail("no region", vgpux_last_error);
        }
        nanosleep(&(struct timespec){0, (VGPU_HEARTBEAT_PERIOD_MS + 50) * 1000000L}, NULL);
        alive = vgpup_confirm_alive(m, cr3, gva, hb0) == 1;
    }
    static uint8_t frame[VGPU_SLOT_STRIDE];
    vgpup_frame_info info;
    if (!alive || vgpup_sample_frame(r, m, frame, sizeof frame, &info) != 1) {
        return fail("no frame", vgpux_last_error);
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < info.bytes; i++) {
        sum += frame[i];
    }
    printf("frame %" PRIu64 ", %ux%u, sum %" PRIu64 "\n", info.desc.frame_id, info.desc.width, info.desc.height, sum);
    vgpup_close(r);
    vmie_win32_close(v);
    vmie_mem_close(m);
    vgpua_detach(g);
    vgpua_detach(NULL);
    return 0;
}
