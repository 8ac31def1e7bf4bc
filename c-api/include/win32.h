#ifndef WIN32_H
#define WIN32_H
/* win32.h - the address spaces of one guest.
 *
 * A Windows guest is read by its kernel's own list of processes. Any other guest is served too, by the page-table roots that
 * share one kernel half; nothing but cr3 is then known of its processes.
 */
#include "memmodel.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is known of a guest's kernel. It borrows its vmie_mem, which has to stay open. */
typedef struct vmie_win32 vmie_win32;

/* A process; 0 and "" where a fact is not known. */
typedef struct process {
    uint64_t cr3;      /* root of its address space */
    uint64_t peb;      /* in its own address space */
    uint64_t eprocess; /* in the kernel's */
    uint32_t pid;
    char name[16];     /* of at most 15 bytes, of unknown encoding: the guest chooses them */
} process;

/* Finds the guest's kernel: Windows first, else the roots that share a kernel half. kcr3 is the root of the System process,
 * or of any process; 0 finds one. NULL where neither works. m is borrowed.
 *
 * Pages of a Windows process that were trimmed but are still in RAM are read; how its objects are laid out is told from the
 * guest at hand, without symbols, and what nothing proves is 0 or "".
 *
 * Work: with kcr3, a few thousand words where that is the root of a sound guest; without, two passes over RAM of two lines a page, and
 * a table for each page that looks like one. At most what vgpu_perception_ext.h says of one call. */
vmie_win32* vmie_win32_open(vmie_mem* m, uint64_t kcr3);

/* Releases the handle, not its vmie_mem. Does nothing on NULL. */
void vmie_win32_close(vmie_win32* v);

/* The vmie_mem that v was opened on, or NULL. */
vmie_mem* vmie_win32_mem(vmie_win32* v);

/* Lists live processes: fills at most cap entries of out and returns how many there are, < 0 on failure. out may be NULL where cap
 * is 0. Where the guest's lists do not end, the call does: VGPUX_E_BUDGET, see vgpu_perception_ext.h. */
int vmie_proc_list(vmie_win32* v, process* out, size_t cap);

/* The same under its old name. In the static library it is weak: a program that has a proc_list of its own keeps that. */
int proc_list(vmie_win32* v, process* out, size_t cap);

#ifdef __cplusplus
}
#endif

#endif /* WIN32_H */
