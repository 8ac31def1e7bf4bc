/* What the headers declare, spelled out once more: each type's members, each function's type. The compiler compares.
 *
 * With SEED defined to the name of another header that declares the same interface, both are read into this translation unit, the other
 * one's names with a prefix, and both are compared with the same table: then they agree with each other.
 */
#include "vgpu_perception.h"
#include "vgpu_perception_ext.h"

#define OURS(name) name

#ifdef SEED
#undef VGPU_PERCEPTION_H
#define vgpup_frame_desc seed_vgpup_frame_desc
#define vgpup_frame_info seed_vgpup_frame_info
#define vgpup_cursor seed_vgpup_cursor
#define vgpup_geometry seed_vgpup_geometry
#define vgpup_status seed_vgpup_status
#define vgpup_control_intent seed_vgpup_control_intent
#define vgpup_open seed_vgpup_open
#define vgpup_close seed_vgpup_close
#define vgpup_discover_candidate seed_vgpup_discover_candidate
#define vgpup_confirm_alive seed_vgpup_confirm_alive
#define vgpup_sample_frame seed_vgpup_sample_frame
#define vgpup_read_cursor seed_vgpup_read_cursor
#define vgpup_read_geometry seed_vgpup_read_geometry
#define vgpup_read_status seed_vgpup_read_status
#define vgpup_run_epoch seed_vgpup_run_epoch
#define vgpup_build_control_write seed_vgpup_build_control_write
#include SEED
#undef vgpup_frame_desc
#undef vgpup_frame_info
#undef vgpup_cursor
#undef vgpup_geometry
#undef vgpup_status
#undef vgpup_control_intent
#undef vgpup_open
#undef vgpup_close
#undef vgpup_discover_candidate
#undef vgpup_confirm_alive
#undef vgpup_sample_frame
#undef vgpup_read_cursor
#undef vgpup_read_geometry
#undef vgpup_read_status
#undef vgpup_run_epoch
#undef vgpup_build_control_write
#define SEEDS(name) seed_##name
#endif

#define SAME(expression, type) _Static_assert(_Generic((expression), type: 1, default: 0), #expression " is not a " #type)
/* A member of a type, its own type, and where it lies. */
#define MEMBER(struct_type, member, type, offset)                                     \
    SAME(((struct_type*)0)->member, type);                                            \
    _Static_assert(offsetof(struct_type, member) == (offset), #struct_type "." #member " lies elsewhere")
#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), "the size of " #type)

#define PERCEPTION(P)                                                                                                  \
    SIZE(P(vgpup_frame_desc), 32);                                                                                     \
    MEMBER(P(vgpup_frame_desc), width, uint32_t, 0);                                                                   \
    MEMBER(P(vgpup_frame_desc), height, uint32_t, 4);                                                                  \
    MEMBER(P(vgpup_frame_desc), stride, uint32_t, 8);                                                                  \
    MEMBER(P(vgpup_frame_desc), format, uint32_t, 12);                                                                 \
    MEMBER(P(vgpup_frame_desc), frame_id, uint64_t, 16);                                                               \
    MEMBER(P(vgpup_frame_desc), timestamp_ns, uint64_t, 24);                                                           \
    SIZE(P(vgpup_frame_info), 32 + sizeof(size_t));                                                                    \
    MEMBER(P(vgpup_frame_info), desc, P(vgpup_frame_desc), 0);                                                         \
    MEMBER(P(vgpup_frame_info), bytes, size_t, 32);                                                                    \
    SIZE(P(vgpup_cursor), 28);                                                                                         \
    MEMBER(P(vgpup_cursor), seq, uint32_t, 0);                                                                         \
    MEMBER(P(vgpup_cursor), visible, uint32_t, 4);                                                                     \
    MEMBER(P(vgpup_cursor), x, int32_t, 8);                                                                            \
    MEMBER(P(vgpup_cursor), y, int32_t, 12);                                                                           \
    MEMBER(P(vgpup_cursor), hot_x, uint16_t, 16);                                                                      \
    MEMBER(P(vgpup_cursor), hot_y, uint16_t, 18);                                                                      \
    MEMBER(P(vgpup_cursor), glyph_w, uint16_t, 20);                                                                    \
    MEMBER(P(vgpup_cursor), glyph_h, uint16_t, 22);                                                                    \
    MEMBER(P(vgpup_cursor), id, uint32_t, 24);                                                                         \
    SIZE(P(vgpup_geometry), 32);                                                                                       \
    MEMBER(P(vgpup_geometry), virt_x, int32_t, 0);                                                                     \
    MEMBER(P(vgpup_geometry), virt_y, int32_t, 4);                                                                     \
    MEMBER(P(vgpup_geometry), virt_w, uint32_t, 8);                                                                    \
    MEMBER(P(vgpup_geometry), virt_h, uint32_t, 12);                                                                   \
    MEMBER(P(vgpup_geometry), cap_x, int32_t, 16);                                                                     \
    MEMBER(P(vgpup_geometry), cap_y, int32_t, 20);                                                                     \
    MEMBER(P(vgpup_geometry), dpi, uint32_t, 24);                                                                      \
    MEMBER(P(vgpup_geometry), refresh_mhz, uint32_t, 28);                                                              \
    SIZE(P(vgpup_status), 48);                                                                                         \
    MEMBER(P(vgpup_status), heartbeat, uint64_t, 0);                                                                   \
    MEMBER(P(vgpup_status), run_epoch, uint32_t, 8);                                                                   \
    MEMBER(P(vgpup_status), status, uint32_t, 12);                                                                     \
    MEMBER(P(vgpup_status), backend, uint32_t, 16);                                                                    \
    MEMBER(P(vgpup_status), error_code, uint32_t, 20);                                                                 \
    MEMBER(P(vgpup_status), applied_fps, uint32_t, 24);                                                                \
    MEMBER(P(vgpup_status), supported_formats, uint32_t, 28);                                                          \
    MEMBER(P(vgpup_status), ctrl_ack, uint32_t, 32);                                                                   \
    MEMBER(P(vgpup_status), full_frame_ack, uint32_t, 36);                                                             \
    MEMBER(P(vgpup_status), content_change_ns, uint64_t, 40);                                                          \
    SIZE(P(vgpup_control_intent), 16);                                                                                 \
    MEMBER(P(vgpup_control_intent), desired_state, uint32_t, 0);                                                       \
    MEMBER(P(vgpup_control_intent), target_fps, uint32_t, 4);                                                          \
    MEMBER(P(vgpup_control_intent), draw_cursor, uint32_t, 8);                                                         \
    MEMBER(P(vgpup_control_intent), full_frame_req, uint32_t, 12);                                                     \
    SAME(&P(vgpup_open), vgpup_region* (*)(vmie_win32*));                                                              \
    SAME(&P(vgpup_close), void (*)(vgpup_region*));                                                                    \
    SAME(&P(vgpup_discover_candidate), int (*)(vmie_win32*, uint64_t*, uint64_t*, uint64_t*));                         \
    SAME(&P(vgpup_confirm_alive), int (*)(vmie_mem*, uint64_t, uint64_t, uint64_t));                                   \
    SAME(&P(vgpup_sample_frame), int (*)(vgpup_region*, vmie_mem*, uint8_t*, size_t, P(vgpup_frame_info)*));           \
    SAME(&P(vgpup_read_cursor), int (*)(vgpup_region*, vmie_mem*, P(vgpup_cursor)*));                                  \
    SAME(&P(vgpup_read_geometry), int (*)(vgpup_region*, vmie_mem*, P(vgpup_geometry)*));                              \
    SAME(&P(vgpup_read_status), int (*)(vgpup_region*, vmie_mem*, P(vgpup_status)*));                                  \
    SAME(&P(vgpup_run_epoch), uint32_t (*)(const vgpup_region*));                                                      \
    SAME(&P(vgpup_build_control_write),                                                                                \
         int (*)(vgpup_region*, const P(vgpup_control_intent)*, vgpu_control_t*, uint64_t*, uint32_t*, uint32_t*))

PERCEPTION(OURS);
#ifdef SEED
PERCEPTION(SEEDS);
#endif

/* memmodel.h and win32.h */
typedef int reader(void*, uint64_t, void*, size_t);
SIZE(gpa_seg, 24);
MEMBER(gpa_seg, gpa, uint64_t, 0);
MEMBER(gpa_seg, len, uint64_t, 8);
MEMBER(gpa_seg, file_off, uint64_t, 16);
SIZE(process, 48);
MEMBER(process, cr3, uint64_t, 0);
MEMBER(process, peb, uint64_t, 8);
MEMBER(process, eprocess, uint64_t, 16);
MEMBER(process, pid, uint32_t, 24);
SAME(&((process*)0)->name, char (*)[16]);
_Static_assert(offsetof(process, name) == 28, "process.name lies elsewhere");
SAME(&vmie_mem_open, vmie_mem* (*)(const char*));
SAME(&vmie_mem_open_segs, vmie_mem* (*)(const char*, const gpa_seg*, size_t));
SAME(&vmie_mem_from_reader, vmie_mem* (*)(reader*, void*));
SAME(&vmie_mem_close, void (*)(vmie_mem*));
SAME(&gva_read, int (*)(vmie_mem*, uint64_t, uint64_t, void*, size_t));
SAME(&gva_to_gpa, int (*)(vmie_mem*, uint64_t, uint64_t, uint64_t*));
SAME(&vmie_win32_open, vmie_win32* (*)(vmie_mem*, uint64_t));
SAME(&vmie_win32_close, void (*)(vmie_win32*));
SAME(&vmie_win32_mem, vmie_mem* (*)(vmie_win32*));
SAME(&vmie_proc_list, int (*)(vmie_win32*, process*, size_t));
SAME(&proc_list, int (*)(vmie_win32*, process*, size_t));

int main(void)
{
    return 0;
}
