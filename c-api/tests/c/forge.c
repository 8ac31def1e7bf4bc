/* As many forged regions as a process likes, and the live one among them: forge RAM KCR3 CR3 GVA FORGED_CR3 GPA:LEN:OFFSET...
 * CR3 is 0 where it is not known; then no forged region may lie at GVA.
 *
 * The seed's flow gives each candidate one turn a round, so the live one is bound within a round; from then on it stays.
 */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <time.h>
#include "check.h"

enum { MOST = 1024 };

static vmie_mem* m;

/* Waits until the heart of the live region has beaten, however busy this machine is. */
static void beat(vgpup_region* r, uint64_t before)
{
    uint64_t now = before;
    for (int tries = 0; tries < 5000 && now == before; tries++) {
        CHECK(vgpux_read_heartbeat(r, m, &now, NULL) == 1);
        nanosleep(&(struct timespec){0, 2000000}, NULL);
    }
    CHECK(now != before);
}

int main(int argc, char** argv)
{
    CHECK(argc > 6);
    gpa_seg segs[8];
    size_t n = 0;
    for (int i = 6; i < argc; i++, n++) {
        CHECK(n < 8 && sscanf(argv[i], "%" SCNx64 ":%" SCNx64 ":%" SCNx64, &segs[n].gpa, &segs[n].len, &segs[n].file_off) == 3);
    }
    uint64_t cr3 = strtoull(argv[3], NULL, 0), gva = strtoull(argv[4], NULL, 0);
    m = vmie_mem_open_segs(argv[1], segs, n);
    vmie_win32* v = vmie_win32_open(m, strtoull(argv[2], NULL, 0));
    CHECK(v != NULL);
    int candidates = vgpux_candidates(v, NULL, 0), alive = 0, turn = 0;
    CHECK(candidates > 200 && candidates < MOST);
    static uint64_t seen[MOST][2];
    while (!alive) {
        CHECK(turn < candidates);
        uint64_t found_cr3, found_gva, hb0, cr3_of_open, gva_of_open;
        vgpup_region* r = vgpup_open(v);
        CHECK(r != NULL && vgpup_discover_candidate(v, &found_cr3, &found_gva, &hb0) == 0);
        CHECK(vgpux_region_place(r, &cr3_of_open, &gva_of_open) == 0 && cr3_of_open == found_cr3 && gva_of_open == found_gva);
        for (int i = 0; i < turn; i++) {
            CHECK(seen[i][0] != found_cr3 || seen[i][1] != found_gva);
        }
        seen[turn][0] = found_cr3, seen[turn][1] = found_gva;
        turn++;
        int live = (found_cr3 == cr3 || cr3 == 0) && found_gva == gva;
        if (live) {
            cr3 = found_cr3;
            beat(r, hb0);
        }
        alive = vgpup_confirm_alive(m, found_cr3, found_gva, hb0);
        CHECK(alive == live);
        vgpup_close(r);
    }
    for (int again = 0; again < 3; again++) {
        uint64_t found_cr3, found_gva, hb0;
        CHECK(vgpup_discover_candidate(v, &found_cr3, &found_gva, &hb0) == 0 && found_cr3 == cr3 && found_gva == gva);
    }
    printf("bound in turn %d of %d\n", turn, candidates);
    vmie_win32_close(v);
    vmie_mem_close(m);
    return 0;
}
