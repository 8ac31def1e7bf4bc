/* A producer in C, as short as it can be: a region in memory of its own, moving bars, a cursor, a heartbeat.
 *
 *   cc -O2 -static -I c-api/include -o producer c-api/examples/producer.c
 *
 * It runs in the guest. docs/writing-a-producer.md explains each step, and how to look at the result from the host.
 * Every store to the region is atomic, because another machine reads it meanwhile.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include "vgpu_stream.h"

#define STORE(place, value) __atomic_store_n(&(place), (value), __ATOMIC_RELAXED)
#define RELEASE(place, value) __atomic_store_n(&(place), (value), __ATOMIC_RELEASE)
#define LOAD(place) __atomic_load_n(&(place), __ATOMIC_ACQUIRE)

#define WIDTH 640u
#define HEIGHT 360u

static vgpu_producer_t* page;
static vgpu_control_t* control;
static uint8_t* ring;
static uint64_t heartbeat, frame_id;
static uint32_t slot;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* At least every VGPU_HEARTBEAT_PERIOD_MS, whatever else goes on. */
static void beat(void)
{
    RELEASE(page->heartbeat, ++heartbeat);
}

/* An odd number: readers keep away. The fence keeps the payload behind it. */
static void begin(uint32_t* seq)
{
    STORE(*seq, *seq + 1);
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

/* The next even number: the payload is there. */
static void end(uint32_t* seq)
{
    RELEASE(*seq, *seq + 1);
}

/* A new session: its first frame is 1 again. Slots keep their sequence numbers. */
static void start(uint32_t run_epoch)
{
    frame_id = 0;
    STORE(page->latest, VGPU_LATEST_NONE);
    STORE(page->frame_id, 0);
    RELEASE(page->run_epoch, run_epoch);
    /* Last of all: without a heartbeat the page is no region yet. */
    beat();
}

static void lay_out(void)
{
    STORE(page->supported_formats, 1u << VGPU_FMT_BGRA8888);
    STORE(page->backend, VGPU_BK_NONE);
    STORE(page->status, VGPU_ST_CAPTURING);
    STORE(control->desired_state, VGPU_CMD_RUN);
    begin(&page->geom_seq);
    STORE(page->virt_w, WIDTH);
    STORE(page->virt_h, HEIGHT);
    STORE(page->dpi, 96);
    STORE(page->refresh_mhz, 60000);
    end(&page->geom_seq);
}

static void publish(void)
{
    /* Never the slot that `latest` names. */
    slot = (slot + 1) % VGPU_SLOT_COUNT;
    uint64_t captured = now_ns();
    begin(&page->seq[slot]);
    vgpu_desc_t* desc = &page->desc[slot];
    STORE(desc->width, WIDTH);
    STORE(desc->height, HEIGHT);
    STORE(desc->stride, WIDTH * 4);
    STORE(desc->format, VGPU_FMT_BGRA8888);
    STORE(desc->frame_id, frame_id + 1);
    STORE(desc->timestamp_ns, captured);
    uint32_t* pixels = (uint32_t*)(ring + (uint64_t)slot * VGPU_SLOT_STRIDE);
    for (uint32_t y = 0; y < HEIGHT; y++) {
        for (uint32_t x = 0; x < WIDTH; x++) {
            uint32_t bar = ((x + (uint32_t)frame_id * 4) / 80) % 8;
            uint32_t bgra = 0xff000000u | (bar & 4 ? 0xff0000u : 0) | (bar & 2 ? 0xff00u : 0) | (bar & 1 ? 0xffu : 0);
            STORE(pixels[y * WIDTH + x], bgra);
        }
    }
    end(&page->seq[slot]);
    RELEASE(page->frame_id, ++frame_id);
    RELEASE(page->latest, slot);
    STORE(page->content_change_ns, captured);
}

static void move_cursor(void)
{
    uint32_t x = (uint32_t)frame_id % WIDTH, y = (uint32_t)frame_id % HEIGHT;
    begin(&page->cursor_seq);
    STORE(page->cursor_visible, 1);
    STORE(page->cursor_pos, (uint64_t)y << 32 | x);
    STORE(page->cursor_glyph, 32u << 16 | 32u);
    STORE(page->cursor_id, VGPU_CURSOR_ID_ARROW);
    end(&page->cursor_seq);
}

/* What the host's control program wants: obeyed, then acknowledged. */
static uint32_t wanted(void)
{
    uint32_t generation = LOAD(control->ctrl_gen), state = LOAD(control->desired_state);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (generation % 2 == 0 && LOAD(control->ctrl_gen) == generation) {
        STORE(page->ctrl_ack, generation);
        return state;
    }
    return VGPU_CMD_RUN;
}

int main(void)
{
    /* Shared, writable, zero, and at a page: what readers recognise. */
    uint8_t* region = mmap(NULL, VGPU_REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    page = (vgpu_producer_t*)(region + VGPU_PRODUCER_OFFSET);
    control = (vgpu_control_t*)(region + VGPU_CONTROL_OFFSET);
    ring = region + VGPU_RING_OFFSET;
    lay_out();
    start(1);
    printf("region at %p\n", (void*)region);
    fflush(stdout);
    for (uint32_t state = VGPU_CMD_RUN; state != VGPU_CMD_STOP; state = wanted()) {
        STORE(page->status, state == VGPU_CMD_PAUSE ? VGPU_ST_PAUSED : VGPU_ST_CAPTURING);
        if (state != VGPU_CMD_PAUSE) {
            publish();
            move_cursor();
        }
        beat();
        nanosleep(&(struct timespec){0, 33000000}, NULL);
    }
    STORE(page->status, VGPU_ST_STOPPED);
    return 0;
}
