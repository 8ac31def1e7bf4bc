#ifndef WIN32_H
#define WIN32_H
/* win32.h - the address spaces of one guest.
 *
 * The name is historical: a guest without an NT kernel is served too, by the page-table roots that share one kernel half.
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

/* kcr3 has to be a root with a kernel half; processes are the roots that share it. kcr3 0: finds one. NULL where neither
 * works. m is borrowed.
 *
 * This version asks no NT kernel: a Windows guest's processes are found by their roots too, so their pid, name, peb and
 * eprocess are not known, and pages that Windows trimmed are errors.
 *
 * Work: with kcr3, bounded by a constant; without, one load for each page of RAM, and a table for each that looks like one. */
vmie_win32* vmie_win32_open(vmie_mem* m, uint64_t kcr3);

/* Releases the handle, not its vmie_mem. Does nothing on NULL, and nothing while a call uses the handle. */
void vmie_win32_close(vmie_win32* v);

/* The vmie_mem that v was opened on, or NULL. */
vmie_mem* vmie_win32_mem(vmie_win32* v);

/* Lists processes: fills at most cap entries of out and returns how many there are, < 0 on failure. out may be NULL where cap
 * is 0. */
int proc_list(vmie_win32* v, process* out, size_t cap);

#ifdef __cplusplus
}
#endif

#endif /* WIN32_H */
