#ifndef VGPU_PERCEPTION_EXT_H
#define VGPU_PERCEPTION_EXT_H
/* vgpu_perception_ext.h - what vgpu_perception.h leaves open: reasons, counts, every candidate, scans in steps, error texts, and
 * handles in the caller's own storage.
 */
#include "vgpu_perception.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- version ------------------------------------------------------------------------------------------------------- */

/* Of this header. The library's file name carries the number of its binary interface (libvgpu_perception.so.0): that number is changed
 * whenever a program that was built before would not run as before. Functions are added without it. */
#define VGPUX_VERSION_MAJOR 0u
#define VGPUX_VERSION_MINOR 2u
#define VGPUX_VERSION_PATCH 0u
#define VGPUX_VERSION (VGPUX_VERSION_MAJOR * 1000000u + VGPUX_VERSION_MINOR * 1000u + VGPUX_VERSION_PATCH)

/* VGPUX_VERSION of the library that is loaded. */
uint32_t vgpux_version(void);

/* ---- errors -------------------------------------------------------------------------------------------------------- */

#define VGPUX_E_ARGUMENT (-1)  /* NULL, misaligned or out of range */
#define VGPUX_E_HANDLE (-2)    /* not a handle of this kind, or closed */
/* -3 is not used: a call never fails because another call uses its handle. */
#define VGPUX_E_READ (-4)      /* guest memory that cannot be read, or is not mapped */
#define VGPUX_E_NOT_FOUND (-5) /* nothing was found */
#define VGPUX_E_OPEN (-6)      /* a RAM file or a segment map that cannot be used */
#define VGPUX_E_MEMORY (-7)    /* the allocator has no more, or the storage or scratch memory that was supplied is too small */
#define VGPUX_E_BUDGET (-9)    /* a search in one call came to the end of what it may read: search in steps */
#define VGPUX_E_INTERNAL (-8)  /* a defect of this library; it is in no bad state */

/* The text of the last failure of this thread (in a library built without a heap: of the program): copies at most cap - 1
 * bytes and a zero. Returns the bytes of the whole text without the zero. Success does not clear it. */
size_t vgpux_last_error(char* buf, size_t cap);

/* The code of the last failure, VGPUX_E_*; 0 before the first. It tells why a function returned NULL. */
int vgpux_last_error_code(void);

/* ---- reads: why not, and what was missed ---------------------------------------------------------------------------- */

#define VGPUX_SKIP_NONE 0u           /* the last read gave a snapshot, or there was none */
#define VGPUX_SKIP_BUSY 1u           /* a write was under way at every try; seq stays the same if its writer stopped */
#define VGPUX_SKIP_TORN 2u           /* the writer overtook every try */
#define VGPUX_SKIP_MOVED 3u          /* the guest remapped the region at every try */
#define VGPUX_SKIP_NO_FRAME 4u       /* nothing was published yet */
#define VGPUX_SKIP_UNCHANGED 5u      /* the latest frame was taken already */
#define VGPUX_SKIP_OLDER 6u          /* it is older than the last one taken: see vgpux_forget_frames */
#define VGPUX_SKIP_BAD_LATEST 7u     /* `latest` names no slot */
#define VGPUX_SKIP_BAD_DESCRIPTOR 8u /* a descriptor that cannot be */
#define VGPUX_SKIP_TOO_SMALL 9u      /* the frame is larger than the buffer */
#define VGPUX_SKIP_BUSY_HANDLE 10u   /* another call is taking a frame through this handle */
#define VGPUX_SKIP_SAMPLED 11u       /* the guest is sampling who uses the region's first page: try again */
#define VGPUX_SKIP_OTHER 99u         /* none of these. Later versions may add numbers: take one that you do not know as this one */

/* Why a read was skipped; fields that the reason does not name are 0. */
typedef struct vgpux_skip {
    uint32_t reason;   /* VGPUX_SKIP_* */
    uint32_t seq;      /* BUSY, TORN: the sequence number of the last try */
    uint32_t slot;     /* BAD_DESCRIPTOR: the slot; BAD_LATEST: the value */
    uint32_t reserved;
    uint64_t needed;   /* TOO_SMALL: bytes of the frame */
    uint64_t capacity; /* TOO_SMALL: bytes of the buffer */
    uint64_t frame_id; /* UNCHANGED, OLDER: the latest frame */
    uint64_t last;     /* OLDER: the last frame taken */
} vgpux_skip;

/* Why the last read on r gave nothing. 0 or < 0. */
int vgpux_last_skip(vgpup_region* r, vgpux_skip* out);

/* Frames that were published and never seen, as their numbers tell: between the last two frames taken, and since r was opened. Either pointer
 * may be NULL. 0 or < 0. */
int vgpux_frames_missed(vgpup_region* r, uint64_t* out_last, uint64_t* out_total);

/* Forgets which frames were taken: the next one is fresh whatever its number. For a caller that saw run_epoch advance. 0 or < 0. */
int vgpux_forget_frames(vgpup_region* r);

/* Where the region is: the root and the first address to pass to vgpup_confirm_alive, gva_read and an external writer. Either
 * pointer may be NULL. 0 or < 0. */
int vgpux_region_place(vgpup_region* r, uint64_t* out_proc_cr3, uint64_t* out_region_gva);

/* Reads the heartbeat, and the run_epoch that it belongs to. 1, 0 or < 0. */
int vgpux_read_heartbeat(vgpup_region* r, vmie_mem* m, uint64_t* out_heartbeat, uint32_t* out_run_epoch);

/* ---- how long a call can take ------------------------------------------------------------------------------------------ */

/* What garbage or a hostile guest can make the library do is bounded, in words of 8 bytes that it reads, by whatever function of a
 * vgpux_reader. What it asks for ahead counts as well.
 *
 * One call reads at most 256 words for each 4 KiB of the guest's RAM and 16777216 besides. Calls that search can come near that:
 * vmie_win32_open, vmie_proc_list, vgpup_open, vgpup_discover_candidate, vgpux_candidates, and where the guest is Windows
 * vgpux_region_open and vgpup_confirm_alive, which look the process up. One that comes to that end is VGPUX_E_BUDGET; vgpup_open and
 * vgpup_discover_candidate give a candidate that they found before it. A program that cannot wait so long searches in steps:
 * vgpux_scan_begin reads at most 65536 words, and vgpux_scan_step its budget and 32768 besides.
 *
 * A read through a vgpup_region has eight tries. In each it reads some 50 words, where Windows trimmed the producer page from the
 * working set up to 8192 more, and a frame's bytes and page tables. */

/* ---- candidates ----------------------------------------------------------------------------------------------------- */

/* A place that satisfies every structural rule. Any process of the guest can forge one, and stale ones stay in memory. */
typedef struct vgpux_candidate {
    uint64_t proc_cr3;
    uint64_t region_gva;
    uint64_t heartbeat;
    uint64_t frame_id; /* last published; 0 for none */
    uint64_t page_gpa; /* where the producer page lies */
    uint32_t run_epoch;
    uint32_t status;   /* VGPU_ST_* */
    uint32_t pid;      /* 0 where not known */
    uint32_t trimmed;  /* 1 where Windows had trimmed the producer page from the working set */
    char name[16];     /* "" where not known */
} vgpux_candidate;

/* Scans everything and fills out with at most cap candidates, in the order in which they were found. Returns how many there are, or < 0. out may
 * be NULL where cap is 0. */
int vgpux_candidates(vmie_win32* v, vgpux_candidate* out, size_t cap);

/* A scan in steps. It borrows the vmie_mem that v was opened on, and does not need v any more. */
typedef struct vgpux_scan vgpux_scan;

#define VGPUX_SCAN_DONE 0    /* nothing is left */
#define VGPUX_SCAN_FOUND 1   /* *out was filled; there may be more */
#define VGPUX_SCAN_PENDING 2 /* the budget is spent: call again */

/* As a scan, and one that begins with the guest's kernel: the whole way from a vmie_mem to candidates, in steps. kcr3 as in
 * vmie_win32_open; 0 finds the kernel. NULL where kcr3 is seen at once not to serve, as nearly all that do not; otherwise the step that
 * sees it is VGPUX_E_READ. A step that finds no kernel is VGPUX_E_NOT_FOUND. After either, a step is VGPUX_SCAN_DONE. */
vgpux_scan* vgpux_scan_begin(vmie_mem* m, uint64_t kcr3);

/* A vmie_win32 of the kernel that s found. NULL (VGPUX_E_NOT_FOUND) before it is found. */
vmie_win32* vgpux_scan_kernel(vgpux_scan* s);

#define VGPUX_PHASE_KERNEL 0u    /* it looks for the kernel */
#define VGPUX_PHASE_PROCESSES 1u /* it searches processes */
#define VGPUX_PHASE_END 2u       /* nothing is left */

/* How far a scan is. */
typedef struct vgpux_scan_progress {
    uint32_t phase; /* VGPUX_PHASE_* */
    uint32_t pass;  /* PROCESSES: 0 gathering, 1 runs, 2 pages */
    uint64_t done;  /* parts of the pass that are done, in this batch of processes */
    uint64_t total; /* of so many; 0 where that is not known */
} vgpux_scan_progress;

/* How far s is. 0 or < 0. */
int vgpux_scan_get_progress(vgpux_scan* s, vgpux_scan_progress* out);

/* What a scan looked at so far. */
typedef struct vgpux_scan_stats {
    uint64_t spaces;     /* address spaces */
    uint64_t tables;     /* page tables */
    uint64_t runs;       /* runs of user pages that are long enough for a region */
    uint64_t frames;     /* pages that were read */
    uint64_t judged;     /* places that were judged by all rules */
    uint64_t candidates;
    uint64_t skipped;    /* stretches of page tables that could not be read */
    uint64_t truncated;  /* address spaces that were left early because they have too many tables */
} vgpux_scan_stats;

/* Goes on until `budget` words were read; what is begun is finished, at most 32768 more. VGPUX_SCAN_*, or < 0 where the memory fails as
 * a whole; the call may then be repeated. */
int vgpux_scan_step(vgpux_scan* s, uint64_t budget, vgpux_candidate* out);

/* What was looked at so far. 0 or < 0. */
int vgpux_scan_get_stats(vgpux_scan* s, vgpux_scan_stats* out);

/* Ends the scan. Does nothing on NULL. */
void vgpux_scan_close(vgpux_scan* s);

/* ---- guest memory behind more than one function ------------------------------------------------------------------------ */

/* A part of a scattered read. */
typedef struct vgpux_piece {
    uint64_t gpa;
    void* dst;
    size_t len;
} vgpux_piece;

/* How guest memory is read, where a call of `read` for each word is too slow: a system call, a socket, another machine. Each function
 * but `read` may be NULL; `read` then does its work.
 *
 * Functions return 0 for success unless they say otherwise, and anything else where guest memory cannot be read. They may be called by
 * every thread that calls the library, and must not call it with the vmie_mem that they serve. They return: exceptions and
 * `longjmp` over the library are forbidden. What happens all the same: a C++ exception goes through to the caller of the library, and what
 * the call used is given up on the way; dst is then unspecified. In a library without a heap it is undefined. `longjmp` leaves what the
 * call used in use for ever: a region that gives VGPUX_SKIP_BUSY_HANDLE, memory that is never released, and after some ten jumps calls of
 * that thread that give VGPUX_E_MEMORY. Other threads and other handles do not notice. */
typedef struct vgpux_reader {
    size_t size; /* sizeof(vgpux_reader) */
    /* As in memmodel.h. */
    int (*read)(void* ctx, uint64_t gpa, void* dst, size_t len);
    /* Copies n pieces (at most 64), in order: one process_vm_readv. The bytes of a frame come this way. */
    int (*read_pieces)(void* ctx, const vgpux_piece* pieces, size_t n);
    /* Loads n words from gpa on, a multiple of 8, each with one load. */
    int (*read_words)(void* ctx, uint64_t gpa, uint64_t* words, size_t n);
    /* Loads the 8 words at each of n addresses, multiples of 64, each word with one load: lines[i] is from gpas[i]. Returns how many lines
     * were loaded before the first that could not be. Searches read this way. */
    size_t (*load_lines)(void* ctx, const uint64_t* gpas, uint64_t (*lines)[8], size_t n);
    /* Finds the first stretch of RAM that was ever written (a sparse file has others) at or after from: 1 and its place, 0 where there
     * is none, < 0 where that cannot be told. Searches leave out the rest, which reads as zeros. */
    int (*next_data)(void* ctx, uint64_t from, uint64_t* start, uint64_t* len);
    /* Whether the caller wants the call to end: not 0, and it ends soon with VGPUX_E_READ. Asked often, by the thread that called. */
    int (*is_cancelled)(void* ctx);
    size_t batch; /* the lines that load_lines is asked for at once: 1 to 1024; 0 leaves it to the library */
} vgpux_reader;

/* ---- handles on the heap -------------------------------------------------------------------------------------------- */

/* Begins a scan. NULL on failure. */
vgpux_scan* vgpux_scan_open(vmie_win32* v);

/* Binds a handle to one candidate, after judging it again. NULL where it is none any more. */
vgpup_region* vgpux_region_open(vmie_win32* v, const vgpux_candidate* c);

/* As vmie_mem_from_reader, with the guest's RAM at segs (gpa and len; file_off is ignored), at most VGPUX_MEM_SEGMENTS. */
vmie_mem* vgpux_mem_from_reader_segs(int (*read)(void* ctx, uint64_t gpa, void* dst, size_t len), void* ctx,
                                     const gpa_seg* segs, size_t n);

/* As vgpux_mem_from_reader_segs, with all of a vgpux_reader. With n 0, RAM is what next_data says, or else is found by asking. */
vmie_mem* vgpux_mem_open_reader(const vgpux_reader* reader, void* ctx, const gpa_seg* segs, size_t n);

/* As vmie_mem_open_segs, with an open file instead of a path (a memfd, an unlinked file); with n 0, all of it from guest physical 0
 * on. The library opens the file again, read-only: what the caller does with the descriptor concerns it no more. With handed_over not 0
 * the descriptor is closed where the call succeeds. */
vmie_mem* vgpux_mem_open_fd(int fd, int handed_over, const gpa_seg* segs, size_t n);

/* A stretch of guest RAM in one of several files. */
typedef struct vgpux_file_seg {
    uint64_t gpa;      /* first guest physical address */
    uint64_t len;      /* bytes */
    uint64_t file_off; /* offset of the first byte in the file */
    uint32_t file;     /* which of the files, from 0 on */
    uint32_t reserved;
} vgpux_file_seg;

/* As vmie_mem_open_segs, over several open files (a memory backend for each NUMA node or DIMM). The descriptors stay the caller's. */
vmie_mem* vgpux_mem_open_fds(const int* fds, size_t n_fds, const vgpux_file_seg* segs, size_t n);

/* Maps the RAM file of a machine: "pc", "q35", "microvm" or "ch". The split around the hole below 4 GiB follows from the
 * file's length; where the machine has other options, use vmie_mem_open_segs. */
vmie_mem* vgpux_mem_open_machine(const char* path, const char* machine);

/* A load from a mapped page that its RAM file no longer has (the file shrank) ends the program with SIGBUS. After this call the vmie_mem
 * that are opened from then on give VGPUX_E_READ instead: a handler is installed, which passes on what is not the library's. 0 or < 0. */
int vgpux_guard_sigbus(void);

/* ---- handles in the caller's storage -------------------------------------------------------------------------------- */

/* A library that is built without a heap has these in place of the functions that return new handles (those of the section above,
 * vmie_mem_open, vmie_mem_open_segs, vmie_mem_from_reader, vmie_win32_open and vgpup_open). Storage has at least the stated size and is
 * aligned to VGPUX_STORAGE_ALIGN. It may be reused or released
 * after the handle was closed and the calls that used it ended: no list says when, so that is the caller's to know. Use the handle that is
 * returned, not the storage's address. No function takes more than 64 KiB of stack, the callback's own apart. */
#define VGPUX_STORAGE_ALIGN 16u
#define VGPUX_MEM_STORAGE_BYTES 8192u
#define VGPUX_WIN32_STORAGE_BYTES 1024u
#define VGPUX_REGION_STORAGE_BYTES 20480u
#define VGPUX_SCAN_STORAGE_BYTES 8192u
/* The most segments of a vmie_mem over a callback. */
#define VGPUX_MEM_SEGMENTS 64u

/* Scratch memory for searches, aligned to VGPUX_STORAGE_ALIGN: any size from VGPUX_SCRATCH_MIN_BYTES on works, VGPUX_SCRATCH_BYTES(end) for RAM that ends below
 * `end` makes them fast. It is in use until the handle is closed. */
#define VGPUX_SCRATCH_MIN_BYTES 16384u
#define VGPUX_SCRATCH_BYTES(end) ((size_t)262144 + (size_t)((end) / 32768))

/* With n 0, RAM is found by asking, as memmodel.h describes. */
vmie_mem* vgpux_mem_init(void* storage, size_t size, int (*read)(void* ctx, uint64_t gpa, void* dst, size_t len),
                         void* ctx, const gpa_seg* segs, size_t n);
vmie_mem* vgpux_mem_init_reader(void* storage, size_t size, const vgpux_reader* reader, void* ctx, const gpa_seg* segs,
                                size_t n);
vmie_win32* vgpux_win32_init(void* storage, size_t size, vmie_mem* m, uint64_t kcr3, void* scratch,
                             size_t scratch_size);
/* With c NULL, chooses as vgpup_open does. */
vgpup_region* vgpux_region_init(void* storage, size_t size, vmie_win32* v, const vgpux_candidate* c);
vgpux_scan* vgpux_scan_init(void* storage, size_t size, vmie_win32* v, void* scratch, size_t scratch_size);
vgpux_scan* vgpux_scan_init_begin(void* storage, size_t size, vmie_mem* m, uint64_t kcr3, void* scratch, size_t scratch_size);
vmie_win32* vgpux_scan_init_kernel(void* storage, size_t size, vgpux_scan* s, void* scratch, size_t scratch_size);

#ifdef __cplusplus
}
#endif

#endif /* VGPU_PERCEPTION_EXT_H */
