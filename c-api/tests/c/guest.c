/* Every function, over a guest: guest RAM KCR3 CR3 GVA FORGED_CR3 GPA:LEN:OFFSET...
 *
 * The guest has a live region at GVA of CR3 and a forged one, whose heart does not beat, at GVA of FORGED_CR3. Its pictures are those of
 * the test kit's default.
 */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "check.h"

static uint64_t kcr3, cr3, gva, forged_cr3;
static uint8_t frame[VGPU_SLOT_STRIDE];

static void wait_a_beat(void)
{
    struct timespec time = {0, (VGPU_HEARTBEAT_PERIOD_MS + 50) * 1000000L};
    nanosleep(&time, NULL);
}

static void processes(vmie_win32* v)
{
    int n = proc_list(v, NULL, 0);
    CHECK(n >= 4);
    process* list = calloc((size_t)n, sizeof *list);
    memset(list, 0xff, (size_t)n * sizeof *list);
    CHECK(proc_list(v, list, 2) == n);
    CHECK(list[1].cr3 != UINT64_MAX && list[2].cr3 == UINT64_MAX);
    CHECK(proc_list(v, list, (size_t)n) == n);
    int found = 0;
    for (int i = 0; i < n; i++) {
        found += list[i].cr3 == cr3 || list[i].cr3 == forged_cr3;
        CHECK(list[i].name[15] == 0);
    }
    CHECK(found == 2);
    free(list);
}

static void candidates(vmie_win32* v)
{
    vgpux_candidate all[8];
    CHECK(vgpux_candidates(v, NULL, 0) == 2);
    memset(all, 0xff, sizeof all);
    CHECK(vgpux_candidates(v, all, 1) == 2);
    CHECK(all[1].proc_cr3 == UINT64_MAX);
    CHECK(vgpux_candidates(v, all, 8) == 2);
    const vgpux_candidate* real = all[0].proc_cr3 == cr3 ? &all[0] : &all[1];
    const vgpux_candidate* forged = real == &all[0] ? &all[1] : &all[0];
    CHECK(real->proc_cr3 == cr3 && real->region_gva == gva && real->frame_id == 5 && real->run_epoch == 1);
    CHECK(real->status == VGPU_ST_CAPTURING && real->heartbeat > 0 && real->trimmed == 0 && real->page_gpa != 0);
    CHECK(forged->proc_cr3 == forged_cr3 && forged->heartbeat == 77);

    vgpup_region* r = vgpux_region_open(v, forged);
    uint64_t where_cr3 = 0, where_gva = 0;
    CHECK(r != NULL && vgpux_region_place(r, &where_cr3, &where_gva) == 0);
    CHECK(where_cr3 == forged_cr3 && where_gva == gva);
    CHECK(vgpux_region_place(r, NULL, NULL) == 0);
    vgpup_close(r);
    vgpux_candidate wrong = *real;
    wrong.region_gva += 4096;
    CHECK(vgpux_region_open(v, &wrong) == NULL && vgpux_last_error_code() == VGPUX_E_NOT_FOUND);
    CHECK(vgpux_region_open(v, NULL) == NULL && vgpux_last_error_code() == VGPUX_E_ARGUMENT);
}

static void scan_in_steps(vmie_win32* v)
{
    vgpux_scan* s = vgpux_scan_open(v);
    CHECK(s != NULL);
    vgpux_candidate c;
    int pending = 0, found = 0, step;
    while ((step = vgpux_scan_step(s, 500, &c)) != VGPUX_SCAN_DONE) {
        CHECK(step == VGPUX_SCAN_PENDING || step == VGPUX_SCAN_FOUND);
        pending += step == VGPUX_SCAN_PENDING;
        found += step == VGPUX_SCAN_FOUND;
    }
    vgpux_scan_stats stats;
    CHECK(found == 2 && pending > 10);
    CHECK(vgpux_scan_get_stats(s, &stats) == 0 && stats.candidates == 2 && stats.spaces >= 4 && stats.frames > 0);
    CHECK(vgpux_scan_step(s, 500, &c) == VGPUX_SCAN_DONE);
    CHECK(vgpux_scan_step(s, 500, NULL) == VGPUX_E_ARGUMENT && vgpux_scan_get_stats(s, NULL) == VGPUX_E_ARGUMENT);
    vgpux_scan_close(s);
    CHECK(vgpux_scan_step(s, 500, &c) == VGPUX_E_HANDLE && vgpux_scan_get_stats(s, &stats) == VGPUX_E_HANDLE);
    vgpux_scan_close(NULL);
}

/* From the memory alone: the kernel and the candidates, at any budget; then a handle on the kernel. */
static void search_in_steps(vmie_mem* m)
{
    for (int known = 0; known < 2; known++) {
        vgpux_scan* s = vgpux_scan_begin(m, known ? kcr3 : 0);
        vgpux_scan_progress at;
        CHECK(s != NULL && vgpux_scan_get_progress(s, &at) == 0);
        CHECK(at.phase == (known ? VGPUX_PHASE_PROCESSES : VGPUX_PHASE_KERNEL));
        CHECK(known || (vgpux_scan_kernel(s) == NULL && vgpux_last_error_code() == VGPUX_E_NOT_FOUND));
        vgpux_candidate c;
        int pending = 0, found = 0, step;
        uint32_t phase = at.phase;
        while ((step = vgpux_scan_step(s, 2000, &c)) != VGPUX_SCAN_DONE) {
            CHECK(step == VGPUX_SCAN_PENDING || step == VGPUX_SCAN_FOUND);
            pending += step == VGPUX_SCAN_PENDING;
            found += step == VGPUX_SCAN_FOUND;
            CHECK(vgpux_scan_get_progress(s, &at) == 0 && at.phase >= phase);
            phase = at.phase;
        }
        CHECK(found == 2 && pending > 10);
        vmie_win32* v = vgpux_scan_kernel(s);
        CHECK(v != NULL && vmie_win32_mem(v) == m && vgpux_candidates(v, NULL, 0) == 2);
        vmie_win32_close(v);
        vgpux_scan_close(s);
    }
    CHECK(vgpux_scan_begin(m, 0x1000) == NULL && vgpux_scan_begin(NULL, 0) == NULL);
}

/* Whether the region is there in what m reads. */
static int reads(vmie_mem* m)
{
    uint64_t gpa;
    vmie_win32* v = vmie_win32_open(m, kcr3);
    int there = v != NULL && gva_to_gpa(m, cr3, gva, &gpa) == 0;
    vmie_win32_close(v);
    return there;
}

/* Open files in place of paths: one that the caller keeps, one that it hands over, two at once. */
static void descriptors(const char* ram, const gpa_seg* segs, size_t n)
{
    int fd = open(ram, O_RDONLY), given = open(ram, O_RDONLY);
    vmie_mem* m = vgpux_mem_open_fd(fd, 0, segs, n);
    vmie_mem* of_given = vgpux_mem_open_fd(given, 1, segs, n);
    CHECK(m != NULL && of_given != NULL && fcntl(fd, F_GETFD) >= 0 && fcntl(given, F_GETFD) == -1);
    CHECK(reads(m) && reads(of_given));
    vmie_mem_close(of_given);
    vgpux_file_seg two[9];
    for (size_t i = 0; i < n; i++) {
        two[i] = (vgpux_file_seg){segs[i].gpa, segs[i].len, segs[i].file_off, (uint32_t)(i % 2), 0};
    }
    int fds[2] = {fd, open(ram, O_RDONLY)};
    vmie_mem* of_two = vgpux_mem_open_fds(fds, 2, two, n);
    CHECK(of_two != NULL && close(fds[1]) == 0 && reads(of_two));
    vmie_mem_close(of_two);
    two[0].file = 2;
    CHECK(vgpux_mem_open_fds(fds, 1, two, n) == NULL && vgpux_last_error_code() == VGPUX_E_OPEN);
    CHECK(vgpux_mem_open_fd(-1, 1, segs, n) == NULL && vgpux_mem_open_fd(1 << 20, 0, segs, n) == NULL);
    CHECK(vgpux_last_error_code() == VGPUX_E_OPEN);
    vmie_mem_close(m);
    close(fd);
}

/* The seed's flow: whatever candidate comes first, the live one is reached, and open and discover agree. */
static vgpup_region* handshake(vmie_win32* v)
{
    for (int tries = 0; tries < 3; tries++) {
        vgpup_region* r = vgpup_open(v);
        CHECK(r != NULL);
        uint64_t c = 0, g = 0, hb0 = 0, rc = 0, rg = 0;
        CHECK(vgpup_discover_candidate(v, &c, &g, &hb0) == 0);
        CHECK(vgpux_region_place(r, &rc, &rg) == 0 && rc == c && rg == g);
        wait_a_beat();
        int alive = vgpup_confirm_alive(vmie_win32_mem(v), c, g, hb0);
        CHECK(alive == (c == cr3));
        if (alive) {
            return r;
        }
        vgpup_close(r);
    }
    CHECK(!"the live region is reached in three tries");
    return NULL;
}

static void frames(vgpup_region* r, vmie_mem* m)
{
    vgpup_frame_info fi;
    vgpux_skip skip;
    uint64_t last = 9, total = 9;
    CHECK(vgpup_sample_frame(r, m, frame, 100, &fi) == 0);
    CHECK(vgpux_last_skip(r, &skip) == 0 && skip.reason == VGPUX_SKIP_TOO_SMALL);
    CHECK(skip.needed == 64 * 48 * 4 && skip.capacity == 100);
    CHECK(vgpup_sample_frame(r, m, NULL, 0, &fi) == 0);
    CHECK(vgpux_last_skip(r, &skip) == 0 && skip.reason == VGPUX_SKIP_TOO_SMALL && skip.capacity == 0);
    CHECK(vgpup_sample_frame(r, m, frame, sizeof frame, &fi) == 1);
    CHECK(fi.desc.width == 64 && fi.desc.height == 48 && fi.desc.stride == 256 && fi.desc.format == VGPU_FMT_BGRA8888);
    CHECK(fi.desc.frame_id == 5 && fi.bytes == 64 * 48 * 4 && fi.desc.timestamp_ns != 0);
    CHECK(vgpux_last_skip(r, &skip) == 0 && skip.reason == VGPUX_SKIP_NONE);
    CHECK(vgpux_frames_missed(r, &last, &total) == 0 && last == 0 && total == 0);
    CHECK(vgpux_frames_missed(r, NULL, NULL) == 0);
    CHECK(vgpup_sample_frame(r, m, frame, sizeof frame, &fi) == 0);
    CHECK(vgpux_last_skip(r, &skip) == 0 && skip.reason == VGPUX_SKIP_UNCHANGED && skip.frame_id == 5);
    CHECK(vgpux_forget_frames(r) == 0 && vgpup_sample_frame(r, m, frame, sizeof frame, &fi) == 1);

    /* Frame 5 is in slot (5 - 1) % 3. */
    static uint8_t bytes[64 * 48 * 4];
    uint64_t at = gva + VGPU_RING_OFFSET + VGPU_SLOT_STRIDE, gpa = 0;
    CHECK(gva_read(m, cr3, at, bytes, sizeof bytes) == 0 && memcmp(bytes, frame, sizeof bytes) == 0);
    CHECK(gva_read(m, cr3 | 0x8000000000000003u, at, bytes, sizeof bytes) == 0);
    CHECK(gva_to_gpa(m, cr3, at, &gpa) == 0 && gpa != 0);
    CHECK(gva_read(m, cr3, 0x1234, bytes, 1) == VGPUX_E_READ && gva_to_gpa(m, cr3, 0x1234, &gpa) == VGPUX_E_READ);
    CHECK(gva_read(m, cr3, (uint64_t)1 << 63, bytes, 1) == VGPUX_E_READ);
    CHECK(gva_read(m, cr3, at, NULL, 0) == 0);
}

static void lines(vgpup_region* r, vmie_mem* m)
{
    vgpup_cursor cursor;
    CHECK(vgpup_read_cursor(r, m, &cursor) == 1);
    CHECK(cursor.seq == 4 && cursor.visible == 1 && cursor.x == 17 && cursor.y == -5 && cursor.hot_x == 2);
    CHECK(cursor.hot_y == 3 && cursor.glyph_w == 32 && cursor.glyph_h == 32 && cursor.id == VGPU_CURSOR_ID_ARROW);
    vgpup_geometry geometry;
    CHECK(vgpup_read_geometry(r, m, &geometry) == 1);
    CHECK(geometry.virt_w == 64 && geometry.virt_h == 48 && geometry.dpi == 96 && geometry.refresh_mhz == 60000);
    CHECK(vgpup_run_epoch(r) == 0);
    vgpup_status status;
    CHECK(vgpup_read_status(r, m, &status) == 0);
    CHECK(status.run_epoch == 1 && status.status == VGPU_ST_CAPTURING && status.backend == VGPU_BK_DDA);
    CHECK(status.applied_fps == 60 && status.supported_formats == 1 && status.heartbeat > 1000);
    CHECK(vgpup_run_epoch(r) == 1);
    uint64_t heartbeat = 0;
    uint32_t run_epoch = 0;
    CHECK(vgpux_read_heartbeat(r, m, &heartbeat, &run_epoch) == 1 && heartbeat >= status.heartbeat && run_epoch == 1);
    CHECK(vgpux_read_heartbeat(r, m, &heartbeat, NULL) == 1);
}

static void control(vgpup_region* r)
{
    vgpup_control_intent in = {VGPU_CMD_PAUSE, 30, 1, 9};
    vgpu_control_t block;
    uint64_t at = 0;
    uint32_t off = 0, len = 0;
    memset(&block, 0xff, sizeof block);
    CHECK(vgpup_build_control_write(r, &in, &block, &at, &off, &len) == 0);
    CHECK(at == gva + VGPU_CONTROL_OFFSET && off == offsetof(vgpu_control_t, desired_state));
    CHECK(off + len == offsetof(vgpu_control_t, attached));
    const vgpu_control_t expected = {
        .desired_state = VGPU_CMD_PAUSE, .target_fps = 30, .draw_cursor = 1, .full_frame_req = 9};
    CHECK(memcmp(&block, &expected, sizeof block) == 0);
    in.draw_cursor = 2;
    CHECK(vgpup_build_control_write(r, &in, &block, &at, &off, &len) == VGPUX_E_ARGUMENT);
    in = (vgpup_control_intent){.desired_state = 3};
    CHECK(vgpup_build_control_write(r, &in, &block, &at, &off, &len) == VGPUX_E_ARGUMENT);
    CHECK(memcmp(&block, &expected, sizeof block) == 0);
    CHECK(vgpup_build_control_write(NULL, &in, &block, &at, &off, &len) < 0);
    CHECK(vgpup_build_control_write(r, NULL, &block, &at, &off, &len) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_build_control_write(r, &in, NULL, &at, &off, &len) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_build_control_write(r, &in, &block, NULL, &off, &len) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_build_control_write(r, &in, &block, &at, NULL, &len) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_build_control_write(r, &in, &block, &at, &off, NULL) == VGPUX_E_ARGUMENT);
}

/* NULL, misaligned, and handles of another kind: a code, and nothing else. */
static void bad_arguments(vmie_mem* m, vmie_win32* v, vgpup_region* r)
{
    static union {
        uint64_t words[64];
        char bytes[512];
    } space;
    void* odd = space.bytes + 1;
    vgpup_frame_info fi;
    vgpup_cursor cursor;
    uint64_t a, b, c;

    CHECK(gva_read(NULL, cr3, gva, frame, 8) == VGPUX_E_HANDLE && gva_read(m, cr3, gva, NULL, 8) == VGPUX_E_ARGUMENT);
    CHECK(gva_read(m, cr3, gva, frame, SIZE_MAX) == VGPUX_E_ARGUMENT);
    CHECK(gva_to_gpa(NULL, cr3, gva, &a) == VGPUX_E_HANDLE && gva_to_gpa(m, cr3, gva, NULL) == VGPUX_E_ARGUMENT);
    CHECK(gva_to_gpa(m, cr3, gva, odd) == VGPUX_E_ARGUMENT);
    CHECK(vmie_mem_open(NULL) == NULL && vmie_mem_open_segs(NULL, NULL, 0) == NULL);
    CHECK(vmie_mem_open_segs("/dev/null", NULL, 1) == NULL && vmie_mem_open("") == NULL);
    CHECK(vmie_mem_from_reader(NULL, NULL) == NULL && vgpux_mem_from_reader_segs(NULL, NULL, NULL, 0) == NULL);
    CHECK(vgpux_mem_open_machine("/dev/null", "vax") == NULL && vgpux_last_error_code() == VGPUX_E_OPEN);
    CHECK(vgpux_mem_open_machine("/dev/null", NULL) == NULL && vgpux_last_error_code() == VGPUX_E_ARGUMENT);
    CHECK(vmie_win32_open(NULL, 0) == NULL && vmie_win32_mem(NULL) == NULL && proc_list(NULL, NULL, 0) < 0);
    CHECK(vmie_win32_open(m, 0x1000) == NULL);
    CHECK(proc_list(v, NULL, 1) == VGPUX_E_ARGUMENT && proc_list(v, odd, 1) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_open(NULL) == NULL && vgpux_last_error_code() == VGPUX_E_HANDLE);
    CHECK(vgpup_discover_candidate(NULL, &a, &b, &c) == VGPUX_E_HANDLE);
    CHECK(vgpup_discover_candidate(v, NULL, &b, &c) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_discover_candidate(v, &a, NULL, &c) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_discover_candidate(v, &a, &b, NULL) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_discover_candidate(v, &a, &b, odd) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_confirm_alive(NULL, cr3, gva, 0) == VGPUX_E_HANDLE && vgpup_confirm_alive(m, 0, 0, 0) == VGPUX_E_READ);
    CHECK(vgpup_confirm_alive(m, cr3, gva + 1, 0) < 0);
    CHECK(vgpup_sample_frame(NULL, m, frame, sizeof frame, &fi) == VGPUX_E_HANDLE);
    CHECK(vgpup_sample_frame(r, NULL, frame, sizeof frame, &fi) == VGPUX_E_HANDLE);
    CHECK(vgpup_sample_frame(r, m, NULL, 8, &fi) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_sample_frame(r, m, frame, sizeof frame, NULL) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_sample_frame(r, m, frame, sizeof frame, odd) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_read_cursor(NULL, m, &cursor) == VGPUX_E_HANDLE && vgpup_read_cursor(r, NULL, &cursor) == VGPUX_E_HANDLE);
    CHECK(vgpup_read_cursor(r, m, NULL) == VGPUX_E_ARGUMENT && vgpup_read_cursor(r, m, odd) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_read_geometry(r, m, NULL) == VGPUX_E_ARGUMENT && vgpup_read_status(r, m, NULL) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_read_geometry(r, m, odd) == VGPUX_E_ARGUMENT && vgpup_read_status(r, m, odd) == VGPUX_E_ARGUMENT);
    CHECK(vgpup_run_epoch(NULL) == 0 && vgpux_last_skip(r, NULL) == VGPUX_E_ARGUMENT);
    CHECK(vgpux_last_skip(NULL, odd) < 0 && vgpux_frames_missed(NULL, &a, &b) == VGPUX_E_HANDLE);
    CHECK(vgpux_frames_missed(r, odd, &b) == VGPUX_E_ARGUMENT && vgpux_forget_frames(NULL) == VGPUX_E_HANDLE);
    CHECK(vgpux_region_place(NULL, &a, &b) == VGPUX_E_HANDLE && vgpux_read_heartbeat(r, m, NULL, NULL) < 0);
    CHECK(vgpux_candidates(NULL, NULL, 0) == VGPUX_E_HANDLE && vgpux_candidates(v, NULL, 1) == VGPUX_E_ARGUMENT);
    CHECK(vgpux_scan_open(NULL) == NULL && vgpux_scan_step(NULL, 1, NULL) < 0);

    /* Handles of another kind, and no handles at all. */
    CHECK(gva_read((vmie_mem*)v, cr3, gva, frame, 8) == VGPUX_E_HANDLE);
    CHECK(vgpup_open((vmie_win32*)r) == NULL && vgpup_read_cursor((vgpup_region*)m, m, &cursor) == VGPUX_E_HANDLE);
    CHECK(gva_read(odd, cr3, gva, frame, 8) == VGPUX_E_HANDLE && vgpup_open((vmie_win32*)(uintptr_t)16) == NULL);
    vmie_mem_close((vmie_mem*)v);
    vgpup_close((vgpup_region*)&space);
    vmie_win32_close(odd);
    CHECK(vgpup_read_cursor(r, m, &cursor) == 1);

    char text[8];
    memset(text, 'x', sizeof text);
    CHECK(vgpup_open(NULL) == NULL);
    size_t whole = vgpux_last_error(text, 4);
    CHECK(whole > 4 && strlen(text) == 3 && text[4] == 'x');
    CHECK(vgpux_last_error(NULL, 0) == whole && vgpux_last_error(text, 1) == whole && text[0] == 0);
}

static void storage(vmie_mem* m)
{
    static _Alignas(VGPUX_STORAGE_ALIGN) unsigned char win32_at[VGPUX_WIN32_STORAGE_BYTES],
        region_at[VGPUX_REGION_STORAGE_BYTES], scan_at[VGPUX_SCAN_STORAGE_BYTES], mem_at[VGPUX_MEM_STORAGE_BYTES];
    static _Alignas(VGPUX_STORAGE_ALIGN) unsigned char scratch[VGPUX_SCRATCH_MIN_BYTES], more[2 * VGPUX_SCRATCH_MIN_BYTES];
    CHECK(vgpux_win32_init(win32_at, sizeof win32_at - 1, m, kcr3, scratch, sizeof scratch) == NULL);
    CHECK(vgpux_last_error_code() == VGPUX_E_MEMORY);
    CHECK(vgpux_win32_init(win32_at, sizeof win32_at, m, kcr3, scratch, sizeof scratch - 1) == NULL);
    CHECK(vgpux_last_error_code() == VGPUX_E_MEMORY);
    CHECK(vgpux_win32_init(win32_at + 8, sizeof win32_at, m, kcr3, scratch, sizeof scratch) == NULL);
    CHECK(vgpux_win32_init(NULL, sizeof win32_at, m, kcr3, scratch, sizeof scratch) == NULL);
    CHECK(vgpux_win32_init(win32_at, sizeof win32_at, m, kcr3, NULL, sizeof scratch) == NULL);
    vmie_win32* v = vgpux_win32_init(win32_at, sizeof win32_at, m, kcr3, scratch, sizeof scratch);
    CHECK(v != NULL && vmie_win32_mem(v) == m);
    CHECK(vgpux_win32_init(win32_at, sizeof win32_at, m, kcr3, scratch, sizeof scratch) == NULL);
    vgpup_region* r = vgpux_region_init(region_at, sizeof region_at, v, NULL);
    vgpup_cursor cursor;
    CHECK(r != NULL && vgpup_read_cursor(r, m, &cursor) == 1);
    vgpux_scan* s = vgpux_scan_init(scan_at, sizeof scan_at, v, more, sizeof more);
    vgpux_candidate c;
    int found = 0, step;
    while ((step = vgpux_scan_step(s, UINT64_MAX, &c)) > 0) {
        found += step == VGPUX_SCAN_FOUND;
    }
    CHECK(step == VGPUX_SCAN_DONE && found == 2);
    vgpux_scan_close(s);
    vgpup_close(r);
    vmie_win32_close(v);
    CHECK(vgpup_read_cursor(r, m, &cursor) == VGPUX_E_HANDLE && vmie_win32_mem(v) == NULL);
    CHECK(vgpux_mem_init(mem_at, sizeof mem_at, NULL, NULL, NULL, 0) == NULL);
}

/* A RAM file that shrinks is an error, and not the end of the program. */
static void shrinking(const char* ram)
{
    char path[512];
    CHECK(snprintf(path, sizeof path, "%s.shrinks", ram) < (int)sizeof path);
    FILE* file = fopen(path, "wb");
    static const unsigned char page[4096] = {1};
    CHECK(file != NULL && fwrite(page, sizeof page, 1, file) == 1 && fwrite(page, sizeof page, 1, file) == 1);
    CHECK(fclose(file) == 0 && vgpux_guard_sigbus() == 0 && vgpux_guard_sigbus() == 0);
    vmie_mem* m = vmie_mem_open(path);
    uint64_t gpa;
    CHECK(m != NULL && gva_to_gpa(m, 0x1000, 0x1000, &gpa) == VGPUX_E_READ);
    CHECK(truncate(path, 4096) == 0 && gva_to_gpa(m, 0x1000, 0x1000, &gpa) == VGPUX_E_READ);
    char why[256];
    vgpux_last_error(why, sizeof why);
    CHECK(strstr(why, "shrank") != NULL);
    vmie_mem_close(m);
    remove(path);
}

static void* read_cursors(void* at)
{
    vmie_win32* v = at;
    vmie_mem* m = vmie_win32_mem(v);
    vgpux_candidate c = {.proc_cr3 = cr3, .region_gva = gva};
    vgpup_region* r = vgpux_region_open(v, &c);
    CHECK(m != NULL && r != NULL);
    for (int i = 0; i < 20000; i++) {
        vgpup_cursor cursor;
        CHECK(vgpup_read_cursor(r, m, &cursor) == 1 && cursor.x == 17);
        CHECK(gva_read(m, cr3, gva, &cursor, sizeof cursor) == 0);
    }
    vgpup_close(r);
    return NULL;
}

static void threads(vmie_win32* v)
{
    pthread_t two[2];
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&two[i], NULL, read_cursors, v) == 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(two[i], NULL) == 0);
    }
}

int main(int argc, char** argv)
{
    CHECK(argc >= 7);
    kcr3 = strtoull(argv[2], NULL, 0);
    cr3 = strtoull(argv[3], NULL, 0);
    gva = strtoull(argv[4], NULL, 0);
    forged_cr3 = strtoull(argv[5], NULL, 0);
    gpa_seg segs[8];
    size_t n = 0;
    for (int i = 6; i < argc; i++, n++) {
        CHECK(n < 8 && sscanf(argv[i], "%" SCNx64 ":%" SCNx64 ":%" SCNx64, &segs[n].gpa, &segs[n].len, &segs[n].file_off) == 3);
    }
    CHECK(vgpux_version() == VGPUX_VERSION);
    CHECK(vgpux_last_error_code() == 0 && vgpux_last_error(NULL, 0) == 0);
    CHECK(vmie_mem_open_segs("/nonexistent", segs, n) == NULL && vgpux_last_error_code() == VGPUX_E_OPEN);
    CHECK(vmie_mem_open_segs(argv[1], segs, 0) == NULL && vmie_mem_open_segs(argv[1], segs, SIZE_MAX) == NULL);
    vmie_mem* m = vmie_mem_open_segs(argv[1], segs, n);
    CHECK(m != NULL);
    vmie_win32* v = vmie_win32_open(m, kcr3);
    CHECK(v != NULL && vmie_win32_mem(v) == m);
    processes(v);
    candidates(v);
    scan_in_steps(v);
    search_in_steps(m);
    descriptors(argv[1], segs, n);
    vgpup_region* r = handshake(v);
    frames(r, m);
    lines(r, m);
    control(r);
    bad_arguments(m, v, r);
    storage(m);
    threads(v);
    shrinking(argv[1]);

    /* After the end of each: codes, whichever order they are closed in. */
    vgpup_cursor cursor;
    uint64_t word;
    vgpup_close(r);
    vgpup_close(r);
    CHECK(vgpup_read_cursor(r, m, &cursor) == VGPUX_E_HANDLE && vgpup_run_epoch(r) == 0);
    r = vgpup_open(v);
    CHECK(r != NULL);
    vmie_mem_close(m);
    vmie_mem_close(m);
    CHECK(gva_read(m, cr3, gva, &word, 8) == VGPUX_E_HANDLE && vgpup_read_cursor(r, m, &cursor) == VGPUX_E_HANDLE);
    CHECK(vgpup_open(v) == NULL && vgpux_last_error_code() == VGPUX_E_HANDLE);
    CHECK(proc_list(v, NULL, 0) == VGPUX_E_HANDLE && vgpup_confirm_alive(m, cr3, gva, 0) == VGPUX_E_HANDLE);
    vmie_win32_close(v);
    vmie_win32_close(v);
    CHECK(vmie_win32_mem(v) == NULL && vgpup_open(v) == NULL);
    vgpup_close(r);
    vgpup_close(NULL);
    vmie_win32_close(NULL);
    vmie_mem_close(NULL);
    puts("all of it");
    return 0;
}
