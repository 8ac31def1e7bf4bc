/* Forges regions without any rights, says so, and waits: forger COUNT. Each has all that makes a candidate but a heart that
 * beats. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vgpu_stream.h"

static int forge(void)
{
    int fd = memfd_create("forged", 0);
    if (fd < 0 || ftruncate(fd, VGPU_REGION_BYTES) != 0) {
        return 0;
    }
    unsigned char* base = mmap(NULL, VGPU_REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (base == MAP_FAILED) {
        return 0;
    }
    vgpu_control_t* control = (vgpu_control_t*)(base + VGPU_CONTROL_OFFSET);
    control->desired_state = VGPU_CMD_RUN;
    vgpu_producer_t* page = (vgpu_producer_t*)(base + VGPU_PRODUCER_OFFSET);
    page->seq[0] = 2;
    page->desc[0] = (vgpu_desc_t){.width = 64, .height = 64, .stride = 256, .format = VGPU_FMT_BGRA8888, .frame_id = 5};
    page->frame_id = 5;
    page->status = VGPU_ST_CAPTURING;
    page->backend = VGPU_BK_DDA;
    page->supported_formats = 1;
    page->run_epoch = 1;
    page->heartbeat = 7;
    return 1;
}

int main(int argc, char** argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 1;
    if (setgid(65534) != 0 || setuid(65534) != 0) {
        perror("giving up root");
        return 1;
    }
    for (int i = 0; i < count; i++) {
        if (!forge()) {
            perror("forging a region");
            return 1;
        }
    }
    printf("forged %d\n", count);
    fflush(stdout);
    for (;;) {
        pause();
    }
}
