#ifndef VGPU_PERCEPTION_H
#define VGPU_PERCEPTION_H
/* vgpu_perception.h - find a vgpu region in a guest and take snapshots of it, read-only.
 *
 * The region is a shared mapping in the user half of a producer process. The caller opens the guest's memory (memmodel.h) and
 * its kernel (win32.h) and keeps both; a region handle remembers only where the region is and what was taken last.
 *
 * Nothing here waits, writes guest memory, starts a thread or calls back except to read.
 *
 * Return values: 1 = a consistent snapshot; 0 = none this time, come back later (vgpux_last_skip says why); < 0 = an error, one of
 * VGPUX_E_*, most often guest memory that is gone: close the region and discover again. On 0 and < 0 nothing is stored through
 * pointers, except that the bytes of a frame's buffer are then unspecified. Functions that have no "come back later" return 0 for success.
 *
 * NULL where an object is needed, a pointer that is not aligned for its type, and a handle that was closed are
 * errors (VGPUX_E_ARGUMENT, VGPUX_E_HANDLE).
 *
 * Threads: any functions may be called at once, on the same handles too, and none waits for another. A frame is taken by one
 * call at a time: a second one on the same region gives 0 (VGPUX_SKIP_BUSY_HANDLE). < 0 is never contention: it is guest memory
 * that cannot be read (VGPUX_E_READ), or an argument, a handle or memory at fault; vgpux_last_error_code tells which.
 *
 * Handles: one that was closed is refused, for ever, whatever was allocated since. Closing a handle that calls are using is done at
 * the end of the last of them; no call begins on it after.
 *
 * The right guest: a region is read through the vmie_mem in which it was found; another is refused (VGPUX_E_ARGUMENT), and nothing
 * is read.
 */
#include <stddef.h>
#include <stdint.h>
#include "vgpu_stream.h"
#include "win32.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A region that was found. */
typedef struct vgpup_region vgpup_region;

/* Binds a handle to the guest's current candidate; NULL where there is none. vgpup_discover_candidate names the same one.
 *
 * Any process of the guest can forge candidates, so they come in turn. One stays current until vgpup_confirm_alive answers <= 0 for
 * it, or a handle on it is closed after a read < 0 (VGPUX_E_READ). Then comes the next: CAPTURING before PAUSED, INIT, ERROR and the
 * rest, those with frames before those without, then by root, then by address; after the last, the first again. One that was
 * confirmed alive stays. So a loop that opens, waits, confirms and closes meets every candidate once in as many rounds as there are
 * candidates (vgpux_candidates says how many): bound it by that number.
 *
 * Whether a producer lives is not known yet: see vgpup_confirm_alive. v is borrowed. */
vgpup_region* vgpup_open(vmie_win32* v);

/* Releases the handle; v and its memory stay. Does nothing on NULL. */
void vgpup_close(vgpup_region* r);

/* Finds a region as vgpup_open does and chooses the same way; without news about liveness in between, the same one. Stores the
 * producer's root, the region's first address there, and the heartbeat. 0, or < 0 (VGPUX_E_NOT_FOUND where there is none). */
int vgpup_discover_candidate(vmie_win32* v, uint64_t* out_proc_cr3, uint64_t* out_region_gva, uint64_t* out_hb0);

/* To be called VGPU_HEARTBEAT_PERIOD_MS or more after hb0 was read. 1: the heartbeat advanced, a producer lives. 0: it did
 * not, or another run_epoch began meanwhile. < 0: it cannot be read. The answer is remembered in m for the choice above. */
int vgpup_confirm_alive(vmie_mem* m, uint64_t proc_cr3, uint64_t region_gva, uint64_t hb0);

/* A frame's descriptor. */
typedef struct {
    uint32_t width, height, stride, format;
    uint64_t frame_id;
    uint64_t timestamp_ns; /* guest monotonic clock: never compare it with a host clock */
} vgpup_frame_desc;

/* A frame that was copied. */
typedef struct {
    vgpup_frame_desc desc;
    size_t bytes; /* height * stride */
} vgpup_frame_info;

/* The cursor. */
typedef struct {
    uint32_t seq; /* sequence number of this snapshot */
    uint32_t visible;
    int32_t x, y;
    uint16_t hot_x, hot_y;
    uint16_t glyph_w, glyph_h;
    uint32_t id; /* VGPU_CURSOR_ID_*, or a number that is not listed */
} vgpup_cursor;

/* The display. */
typedef struct {
    int32_t virt_x, virt_y;
    uint32_t virt_w, virt_h;
    int32_t cap_x, cap_y;
    uint32_t dpi, refresh_mhz;
} vgpup_geometry;

/* The lifecycle: each field is whole, but they are not of one moment. */
typedef struct {
    uint64_t heartbeat;
    uint32_t run_epoch;
    uint32_t status;  /* VGPU_ST_* */
    uint32_t backend; /* VGPU_BK_* */
    uint32_t error_code;
    uint32_t applied_fps;
    uint32_t supported_formats;
    uint32_t ctrl_ack;
    uint32_t full_frame_ack;
    uint64_t content_change_ns;
} vgpup_status;

/* Copies the latest frame into dst if its frame_id is above the last one taken. A frame that needs more than cap bytes is a 0;
 * vgpux_last_skip has the size. dst may be NULL where cap is 0. */
int vgpup_sample_frame(vgpup_region* r, vmie_mem* m, uint8_t* dst, size_t cap, vgpup_frame_info* info);

/* 1, 0 or < 0. */
int vgpup_read_cursor(vgpup_region* r, vmie_mem* m, vgpup_cursor* out);

/* 1, 0 or < 0. */
int vgpup_read_geometry(vgpup_region* r, vmie_mem* m, vgpup_geometry* out);

/* 0 or < 0. Remembers run_epoch. A page that the guest moves at every try, or whose use it is sampling, is VGPUX_E_READ: try again. */
int vgpup_read_status(vgpup_region* r, vmie_mem* m, vgpup_status* out);

/* The run_epoch of the last vgpup_read_status; 0 before the first and where r is not a handle. */
uint32_t vgpup_run_epoch(const vgpup_region* r);

/* What the caller wants of the producer. */
typedef struct {
    uint32_t desired_state; /* VGPU_CMD_* */
    uint32_t target_fps;    /* 0 leaves it to the producer */
    uint32_t draw_cursor;   /* 0, or anything else for 1 */
    uint32_t full_frame_req;
} vgpup_control_intent;

/* Builds the control block for in, and says where a component with write access has to store which part of it:
 * out_frame[*out_off .. *out_off + *out_len) at *out_ctrl_gva + *out_off of the PRODUCER's address space, under ctrl_gen, which
 * is 0 here and belongs to the writer. Reads and writes no guest memory. 0 or < 0. */
int vgpup_build_control_write(vgpup_region* r, const vgpup_control_intent* in, vgpu_control_t* out_frame,
                              uint64_t* out_ctrl_gva, uint32_t* out_off, uint32_t* out_len);

#ifdef __cplusplus
}
#endif

#endif /* VGPU_PERCEPTION_H */
