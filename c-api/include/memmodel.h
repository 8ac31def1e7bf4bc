#ifndef MEMMODEL_H
#define MEMMODEL_H
/* memmodel.h - the physical memory of one guest, read-only, and its virtual addresses.
 *
 * Every function takes NULL, misaligned and closed handles and pointers: it then returns NULL or a negative number, and does
 * nothing else. vgpux_last_error (vgpu_perception_ext.h) says what was wrong.
 *
 * Threads: a vmie_mem may be used by several threads at once if its callback may. It can be closed while calls use it: they go on,
 * and it is released when the last of them ends. No callback is called after that, and none by a call that begins after closing.
 */
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The memory of one guest. */
typedef struct vmie_mem vmie_mem;

/* A stretch of guest RAM and where it lies in the RAM file. All three are multiples of 4096, len is not 0. */
typedef struct gpa_seg {
    uint64_t gpa;      /* first guest physical address */
    uint64_t len;      /* bytes */
    uint64_t file_off; /* offset of the first byte in the file */
} gpa_seg;

/* Maps the file at path read-only, all of it, from guest physical 0 on. NULL where it cannot be opened, has no bytes or no
 * data. */
vmie_mem* vmie_mem_open(const char* path);

/* Maps the file at path read-only as n segments say (1 to 1024, in any order, not overlapping). What lies between them is no
 * RAM: reading it fails. */
vmie_mem* vmie_mem_open_segs(const char* path, const gpa_seg* segs, size_t n);

/* Reads through a callback: it fills dst with len bytes at gpa and returns 0, or returns anything else where it cannot (no
 * RAM there, or not all of it). It has to answer a request for an aligned 4 or 8 bytes with one load of that size, into dst
 * that is aligned alike: memcpy does. It must not call into this library with the handle that it serves.
 *
 * Where the guest's RAM lies is found by asking: the first time that it matters (vmie_win32_open), the callback is asked for
 * 8 bytes every 2 MiB from 0 to 4 GiB, and on from there until 64 GiB in a row were refused, 1048576 times at most; the edges
 * are then searched to the page. RAM that lies beyond, or between the questions, is not found: vgpux_mem_from_reader_segs takes the
 * map from the caller instead. */
vmie_mem* vmie_mem_from_reader(int (*read)(void* ctx, uint64_t gpa, void* dst, size_t len), void* ctx);

/* Releases the handle. Does nothing on NULL. */
void vmie_mem_close(vmie_mem* m);

/* Copies len bytes at gva of the address space at cr3, whose flag bits are ignored. 0, or < 0; dst is then partly filled or
 * untouched. The paging mode is the one that the last vmie_win32_open on m found; 4 levels before. */
int gva_read(vmie_mem* m, uint64_t cr3, uint64_t gva, void* dst, size_t len);

/* Translates gva. 0 and *out_gpa, or < 0. */
int gva_to_gpa(vmie_mem* m, uint64_t cr3, uint64_t gva, uint64_t* out_gpa);

#ifdef __cplusplus
}
#endif

#endif /* MEMMODEL_H */
