#ifndef VGPU_STREAM_H
#define VGPU_STREAM_H
/* vgpu_stream.h - the bytes of a vgpu region.
 *
 * A region is one virtually contiguous shared mapping of VGPU_REGION_BYTES in one producer process: the producer page, the
 * control page, and from VGPU_RING_OFFSET on a ring of VGPU_SLOT_COUNT frames. All numbers are little-endian and naturally
 * aligned. There is no magic number and no version: a region is recognised by its structure alone.
 *
 * Seqlocks: an even number is stable, an odd one is being written. These structs describe the layout; guest memory itself is
 * written while it is read, so never point one of them into it. Fill them from a copy.
 */
#include <stddef.h>
#include <stdint.h>

#define VGPU_PAGE 4096u
#define VGPU_SLOT_COUNT 3u
#define VGPU_SLOT_STRIDE 33554432u /* 32 MiB from one slot to the next */
#define VGPU_PRODUCER_OFFSET 0u
#define VGPU_CONTROL_OFFSET 4096u
#define VGPU_RING_OFFSET 2097152u  /* 2 MiB */
#define VGPU_REGION_BYTES 102760448u /* 98 MiB: the ring's offset and three strides */
#define VGPU_MAX_WIDTH 3840u
#define VGPU_MAX_HEIGHT 2160u

/* The heartbeat advances at least this often, whatever the producer is doing. */
#define VGPU_HEARTBEAT_PERIOD_MS 250u

/* `latest` before the first frame. */
#define VGPU_LATEST_NONE 0xFFFFFFFFu

/* Pixel formats. */
#define VGPU_FMT_BGRA8888 0u

/* What the producer is doing. */
#define VGPU_ST_INIT 0u
#define VGPU_ST_CAPTURING 1u
#define VGPU_ST_PAUSED 2u
#define VGPU_ST_STOPPED 3u
#define VGPU_ST_ERROR 4u

/* How it captures. */
#define VGPU_BK_NONE 0u
#define VGPU_BK_NVFBC 1u
#define VGPU_BK_DDA 2u
#define VGPU_BK_GDI 3u

/* What the consumer wants of it. */
#define VGPU_CMD_STOP 0u
#define VGPU_CMD_RUN 1u
#define VGPU_CMD_PAUSE 2u

/* Shapes of the cursor. Numbers that are not listed are passed through. */
#define VGPU_CURSOR_ID_CUSTOM 0u
#define VGPU_CURSOR_ID_ARROW 1u
#define VGPU_CURSOR_ID_IBEAM 2u
#define VGPU_CURSOR_ID_WAIT 3u
#define VGPU_CURSOR_ID_CROSS 4u
#define VGPU_CURSOR_ID_HAND 5u
#define VGPU_CURSOR_ID_SIZE_NS 6u
#define VGPU_CURSOR_ID_SIZE_WE 7u
#define VGPU_CURSOR_ID_SIZE_NWSE 8u
#define VGPU_CURSOR_ID_SIZE_NESW 9u
#define VGPU_CURSOR_ID_SIZE_ALL 10u
#define VGPU_CURSOR_ID_NO 11u
#define VGPU_CURSOR_ID_HELP 12u
#define VGPU_CURSOR_ID_APPSTARTING 13u

/* Descriptor of a slot; valid under the slot's seq. */
typedef struct vgpu_desc_t {
    uint32_t width;        /* pixels a row */
    uint32_t height;       /* rows */
    uint32_t stride;       /* bytes a row: width * 4 */
    uint32_t format;       /* VGPU_FMT_* */
    uint64_t frame_id;     /* the producer's frame_id when it was published */
    uint64_t timestamp_ns; /* capture time, guest monotonic clock */
} vgpu_desc_t;

/* The producer page, at VGPU_PRODUCER_OFFSET. */
typedef struct vgpu_producer_t {
    uint32_t latest;               /* 0x000 last completed slot, or VGPU_LATEST_NONE */
    uint32_t seq[VGPU_SLOT_COUNT]; /* 0x004 a seqlock a slot: its descriptor and its bytes in the ring */
    uint64_t frame_id;             /* 0x010 last published; 0 before the first */
    uint8_t reserved_018[8];
    vgpu_desc_t desc[VGPU_SLOT_COUNT]; /* 0x020 all zero until the slot was first written */

    uint32_t cursor_seq;     /* 0x080 seqlock of this line */
    uint32_t cursor_visible; /* 0x084 0 or 1 */
    uint64_t cursor_pos;     /* 0x088 low half x, high half y, each an int32_t */
    uint32_t cursor_hotspot; /* 0x090 low half x, high half y, each a uint16_t */
    uint32_t cursor_glyph;   /* 0x094 low half width, high half height, each a uint16_t */
    uint32_t cursor_id;      /* 0x098 VGPU_CURSOR_ID_* */
    uint8_t reserved_09c[36];

    uint32_t geom_seq; /* 0x0c0 seqlock of this line */
    int32_t virt_x;    /* 0x0c4 */
    int32_t virt_y;    /* 0x0c8 */
    uint32_t virt_w;   /* 0x0cc */
    uint32_t virt_h;   /* 0x0d0 */
    int32_t cap_x;     /* 0x0d4 */
    int32_t cap_y;     /* 0x0d8 */
    uint32_t dpi;      /* 0x0dc */
    uint32_t refresh_mhz; /* 0x0e0 millihertz */
    uint8_t reserved_0e4[28];

    uint64_t heartbeat;         /* 0x100 single atomic fields from here on, no seqlock */
    uint64_t content_change_ns; /* 0x108 guest monotonic clock */
    uint32_t run_epoch;         /* 0x110 1 and up; advances at a session break */
    uint32_t status;            /* 0x114 VGPU_ST_* */
    uint32_t backend;           /* 0x118 VGPU_BK_* */
    uint32_t error_code;        /* 0x11c */
    uint32_t applied_fps;       /* 0x120 */
    uint32_t supported_formats; /* 0x124 bit n: format n */
    uint32_t ctrl_ack;          /* 0x128 last ctrl_gen obeyed */
    uint32_t full_frame_ack;    /* 0x12c last full_frame_req obeyed */
    uint8_t reserved_130[3792];
} vgpu_producer_t;

/* The control block, at VGPU_CONTROL_OFFSET. Whoever writes it owns ctrl_gen, its seqlock. */
typedef struct vgpu_control_t {
    uint32_t ctrl_gen;       /* 0x00 */
    uint32_t desired_state;  /* 0x04 VGPU_CMD_* */
    uint32_t target_fps;     /* 0x08 0 leaves it to the producer */
    uint32_t draw_cursor;    /* 0x0c 0 or 1 */
    uint32_t full_frame_req; /* 0x10 edge counter */
    uint32_t attached;       /* 0x14 */
    uint64_t consumer_tick;  /* 0x18 */
    uint8_t reserved_020[32];
} vgpu_control_t;

#if defined(__cplusplus)
#define VGPU_LAYOUT(what) static_assert(what, "vgpu region layout: " #what)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define VGPU_LAYOUT(what) _Static_assert(what, "vgpu region layout: " #what)
#endif
#ifdef VGPU_LAYOUT
VGPU_LAYOUT(sizeof(vgpu_desc_t) == 32);
VGPU_LAYOUT(sizeof(vgpu_producer_t) == VGPU_PAGE);
VGPU_LAYOUT(offsetof(vgpu_producer_t, desc) == 0x020);
VGPU_LAYOUT(offsetof(vgpu_producer_t, cursor_seq) == 0x080);
VGPU_LAYOUT(offsetof(vgpu_producer_t, geom_seq) == 0x0c0);
VGPU_LAYOUT(offsetof(vgpu_producer_t, heartbeat) == 0x100);
VGPU_LAYOUT(sizeof(vgpu_control_t) == 64);
#undef VGPU_LAYOUT
#endif

#endif /* VGPU_STREAM_H */
