#ifndef VGPU_PERCEPTION_ATTACH_H
#define VGPU_PERCEPTION_ATTACH_H
/* vgpu_perception_attach.h - from a guest's name to its memory: for programs that are no part of the VMM.
 *
 * A library of its own (libvgpu_perception_attach), so that libvgpu_perception stays small. It asks QEMU's monitor, cloud-hypervisor's
 * socket or the kernel where a guest's RAM is, and reads it from the files that the guest shares or out of the VMM's process. What it
 * gives is a vgpux_reader; everything else is done by libvgpu_perception:
 *
 *     vgpua_guest* g = vgpua_attach("win11");
 *     vmie_mem* m = g != NULL ? vgpua_mem_open(g) : NULL;
 *     vmie_win32* v = vmie_win32_open(m, vgpua_root(g));
 *     if (v == NULL) v = vmie_win32_open(m, 0);   // the root was one of user mode
 *     // ... as in vgpu_perception.h; then:
 *     vmie_win32_close(v), vmie_mem_close(m), vgpua_detach(g);
 *
 * Threads: a guest may be read by several at once. Detach when no call reads it.
 */
#include "vgpu_perception_ext.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A guest that is attached to. */
typedef struct vgpua_guest vgpua_guest;

/* Attaches to the guest that name says: name:NAME (of a VM), pid:N (of the VMM), qmp:PATH or qmp:HOST:PORT (QEMU's monitor),
 * ch:SOCKET (cloud-hypervisor), ram:FILE, core:FILE, or a bare word that can be only one of these. NULL on failure. */
vgpua_guest* vgpua_attach(const char* name);

/* Lets go of the guest. The vmie_mem over it must be closed before. Does nothing on NULL. */
void vgpua_detach(vgpua_guest* g);

/* How the guest is read; ctx is g. It lives as long as g. NULL where g is. */
const vgpux_reader* vgpua_reader(const vgpua_guest* g);

/* Where the guest's RAM is: *n stretches, sorted. NULL and 0 where g is NULL. */
const gpa_seg* vgpua_segs(const vgpua_guest* g, size_t* n);

/* A page-table root that a processor of the guest had loaded, or 0 where nobody says. */
uint64_t vgpua_root(const vgpua_guest* g);

/* The text of this thread's last failure: copies at most cap - 1 bytes and a zero; returns the bytes of the whole text. */
size_t vgpua_last_error(char* buf, size_t cap);

/* The guest's memory as libvgpu_perception takes it; closed by vmie_mem_close. */
static inline vmie_mem* vgpua_mem_open(vgpua_guest* g)
{
    size_t n = 0;
    const gpa_seg* segs = vgpua_segs(g, &n);
    /* More stretches than a map has room for are found by asking for data. */
    return vgpux_mem_open_reader(vgpua_reader(g), g, segs, n <= VGPUX_MEM_SEGMENTS ? n : 0);
}

#ifdef __cplusplus
}
#endif

#endif /* VGPU_PERCEPTION_ATTACH_H */
