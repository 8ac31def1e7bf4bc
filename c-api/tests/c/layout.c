/* Prints what the headers say about layouts and values; src/layout.rs compares it with what the library has. */
#include <stdio.h>
#include "vgpu_perception_ext.h"

#define VALUE(name) printf(#name " %lld\n", (long long)(name))
#define SIZE(type) printf("sizeof " #type " %zu\n", sizeof(type))
#define AT(type, member) printf(#type "." #member " %zu\n", offsetof(type, member))

int main(void)
{
    VALUE(VGPU_PAGE);
    VALUE(VGPU_SLOT_COUNT);
    VALUE(VGPU_SLOT_STRIDE);
    VALUE(VGPU_PRODUCER_OFFSET);
    VALUE(VGPU_CONTROL_OFFSET);
    VALUE(VGPU_RING_OFFSET);
    VALUE(VGPU_REGION_BYTES);
    VALUE(VGPU_MAX_WIDTH);
    VALUE(VGPU_MAX_HEIGHT);
    VALUE(VGPU_HEARTBEAT_PERIOD_MS);
    VALUE(VGPU_LATEST_NONE);
    VALUE(VGPU_FMT_BGRA8888);
    VALUE(VGPU_ST_INIT);
    VALUE(VGPU_ST_CAPTURING);
    VALUE(VGPU_ST_PAUSED);
    VALUE(VGPU_ST_STOPPED);
    VALUE(VGPU_ST_ERROR);
    VALUE(VGPU_BK_NONE);
    VALUE(VGPU_BK_NVFBC);
    VALUE(VGPU_BK_DDA);
    VALUE(VGPU_BK_GDI);
    VALUE(VGPU_CMD_STOP);
    VALUE(VGPU_CMD_RUN);
    VALUE(VGPU_CMD_PAUSE);
    VALUE(VGPU_CURSOR_ID_CUSTOM);
    VALUE(VGPU_CURSOR_ID_ARROW);
    VALUE(VGPU_CURSOR_ID_IBEAM);
    VALUE(VGPU_CURSOR_ID_WAIT);
    VALUE(VGPU_CURSOR_ID_CROSS);
    VALUE(VGPU_CURSOR_ID_HAND);
    VALUE(VGPU_CURSOR_ID_SIZE_NS);
    VALUE(VGPU_CURSOR_ID_SIZE_WE);
    VALUE(VGPU_CURSOR_ID_SIZE_NWSE);
    VALUE(VGPU_CURSOR_ID_SIZE_NESW);
    VALUE(VGPU_CURSOR_ID_SIZE_ALL);
    VALUE(VGPU_CURSOR_ID_NO);
    VALUE(VGPU_CURSOR_ID_HELP);
    VALUE(VGPU_CURSOR_ID_APPSTARTING);
    VALUE(VGPUX_E_ARGUMENT);
    VALUE(VGPUX_E_HANDLE);
    VALUE(VGPUX_E_READ);
    VALUE(VGPUX_E_NOT_FOUND);
    VALUE(VGPUX_E_OPEN);
    VALUE(VGPUX_E_MEMORY);
    VALUE(VGPUX_E_INTERNAL);
    VALUE(VGPUX_SKIP_NONE);
    VALUE(VGPUX_SKIP_BUSY);
    VALUE(VGPUX_SKIP_TORN);
    VALUE(VGPUX_SKIP_MOVED);
    VALUE(VGPUX_SKIP_NO_FRAME);
    VALUE(VGPUX_SKIP_UNCHANGED);
    VALUE(VGPUX_SKIP_OLDER);
    VALUE(VGPUX_SKIP_BAD_LATEST);
    VALUE(VGPUX_SKIP_BAD_DESCRIPTOR);
    VALUE(VGPUX_SKIP_TOO_SMALL);
    VALUE(VGPUX_SKIP_BUSY_HANDLE);
    VALUE(VGPUX_SKIP_SAMPLED);
    VALUE(VGPUX_SKIP_OTHER);
    VALUE(VGPUX_SCAN_DONE);
    VALUE(VGPUX_SCAN_FOUND);
    VALUE(VGPUX_SCAN_PENDING);
    VALUE(VGPUX_E_BUDGET);
    VALUE(VGPUX_PHASE_KERNEL);
    VALUE(VGPUX_PHASE_PROCESSES);
    VALUE(VGPUX_PHASE_END);
    VALUE(VGPUX_VERSION_MAJOR);
    VALUE(VGPUX_VERSION_MINOR);
    VALUE(VGPUX_VERSION_PATCH);
    VALUE(VGPUX_VERSION);
    VALUE(VGPUX_STORAGE_ALIGN);
    VALUE(VGPUX_MEM_STORAGE_BYTES);
    VALUE(VGPUX_WIN32_STORAGE_BYTES);
    VALUE(VGPUX_REGION_STORAGE_BYTES);
    VALUE(VGPUX_SCAN_STORAGE_BYTES);
    VALUE(VGPUX_MEM_SEGMENTS);
    VALUE(VGPUX_SCRATCH_MIN_BYTES);
    VALUE(VGPUX_SCRATCH_BYTES(5368709120ull));

    SIZE(vgpu_desc_t);
    AT(vgpu_desc_t, width);
    AT(vgpu_desc_t, height);
    AT(vgpu_desc_t, stride);
    AT(vgpu_desc_t, format);
    AT(vgpu_desc_t, frame_id);
    AT(vgpu_desc_t, timestamp_ns);

    SIZE(vgpu_producer_t);
    AT(vgpu_producer_t, latest);
    AT(vgpu_producer_t, seq);
    AT(vgpu_producer_t, frame_id);
    AT(vgpu_producer_t, desc);
    AT(vgpu_producer_t, cursor_seq);
    AT(vgpu_producer_t, cursor_visible);
    AT(vgpu_producer_t, cursor_pos);
    AT(vgpu_producer_t, cursor_hotspot);
    AT(vgpu_producer_t, cursor_glyph);
    AT(vgpu_producer_t, cursor_id);
    AT(vgpu_producer_t, geom_seq);
    AT(vgpu_producer_t, virt_x);
    AT(vgpu_producer_t, virt_y);
    AT(vgpu_producer_t, virt_w);
    AT(vgpu_producer_t, virt_h);
    AT(vgpu_producer_t, cap_x);
    AT(vgpu_producer_t, cap_y);
    AT(vgpu_producer_t, dpi);
    AT(vgpu_producer_t, refresh_mhz);
    AT(vgpu_producer_t, heartbeat);
    AT(vgpu_producer_t, content_change_ns);
    AT(vgpu_producer_t, run_epoch);
    AT(vgpu_producer_t, status);
    AT(vgpu_producer_t, backend);
    AT(vgpu_producer_t, error_code);
    AT(vgpu_producer_t, applied_fps);
    AT(vgpu_producer_t, supported_formats);
    AT(vgpu_producer_t, ctrl_ack);
    AT(vgpu_producer_t, full_frame_ack);

    SIZE(vgpu_control_t);
    AT(vgpu_control_t, ctrl_gen);
    AT(vgpu_control_t, desired_state);
    AT(vgpu_control_t, target_fps);
    AT(vgpu_control_t, draw_cursor);
    AT(vgpu_control_t, full_frame_req);
    AT(vgpu_control_t, attached);
    AT(vgpu_control_t, consumer_tick);

    SIZE(gpa_seg);
    AT(gpa_seg, gpa);
    AT(gpa_seg, len);
    AT(gpa_seg, file_off);

    SIZE(process);
    AT(process, cr3);
    AT(process, peb);
    AT(process, eprocess);
    AT(process, pid);
    AT(process, name);

    SIZE(vgpup_frame_desc);
    AT(vgpup_frame_desc, width);
    AT(vgpup_frame_desc, height);
    AT(vgpup_frame_desc, stride);
    AT(vgpup_frame_desc, format);
    AT(vgpup_frame_desc, frame_id);
    AT(vgpup_frame_desc, timestamp_ns);

    SIZE(vgpup_frame_info);
    AT(vgpup_frame_info, desc);
    AT(vgpup_frame_info, bytes);

    SIZE(vgpup_cursor);
    AT(vgpup_cursor, seq);
    AT(vgpup_cursor, visible);
    AT(vgpup_cursor, x);
    AT(vgpup_cursor, y);
    AT(vgpup_cursor, hot_x);
    AT(vgpup_cursor, hot_y);
    AT(vgpup_cursor, glyph_w);
    AT(vgpup_cursor, glyph_h);
    AT(vgpup_cursor, id);

    SIZE(vgpup_geometry);
    AT(vgpup_geometry, virt_x);
    AT(vgpup_geometry, virt_y);
    AT(vgpup_geometry, virt_w);
    AT(vgpup_geometry, virt_h);
    AT(vgpup_geometry, cap_x);
    AT(vgpup_geometry, cap_y);
    AT(vgpup_geometry, dpi);
    AT(vgpup_geometry, refresh_mhz);

    SIZE(vgpup_status);
    AT(vgpup_status, heartbeat);
    AT(vgpup_status, run_epoch);
    AT(vgpup_status, status);
    AT(vgpup_status, backend);
    AT(vgpup_status, error_code);
    AT(vgpup_status, applied_fps);
    AT(vgpup_status, supported_formats);
    AT(vgpup_status, ctrl_ack);
    AT(vgpup_status, full_frame_ack);
    AT(vgpup_status, content_change_ns);

    SIZE(vgpup_control_intent);
    AT(vgpup_control_intent, desired_state);
    AT(vgpup_control_intent, target_fps);
    AT(vgpup_control_intent, draw_cursor);
    AT(vgpup_control_intent, full_frame_req);

    SIZE(vgpux_skip);
    AT(vgpux_skip, reason);
    AT(vgpux_skip, seq);
    AT(vgpux_skip, slot);
    AT(vgpux_skip, needed);
    AT(vgpux_skip, capacity);
    AT(vgpux_skip, frame_id);
    AT(vgpux_skip, last);

    SIZE(vgpux_candidate);
    AT(vgpux_candidate, proc_cr3);
    AT(vgpux_candidate, region_gva);
    AT(vgpux_candidate, heartbeat);
    AT(vgpux_candidate, frame_id);
    AT(vgpux_candidate, page_gpa);
    AT(vgpux_candidate, run_epoch);
    AT(vgpux_candidate, status);
    AT(vgpux_candidate, pid);
    AT(vgpux_candidate, trimmed);
    AT(vgpux_candidate, name);

    SIZE(vgpux_scan_stats);
    AT(vgpux_scan_stats, spaces);
    AT(vgpux_scan_stats, tables);
    AT(vgpux_scan_stats, runs);
    AT(vgpux_scan_stats, frames);
    AT(vgpux_scan_stats, judged);
    AT(vgpux_scan_stats, candidates);
    AT(vgpux_scan_stats, skipped);
    AT(vgpux_scan_stats, truncated);

    SIZE(vgpux_scan_progress);
    AT(vgpux_scan_progress, phase);
    AT(vgpux_scan_progress, pass);
    AT(vgpux_scan_progress, done);
    AT(vgpux_scan_progress, total);

    SIZE(vgpux_file_seg);
    AT(vgpux_file_seg, gpa);
    AT(vgpux_file_seg, len);
    AT(vgpux_file_seg, file_off);
    AT(vgpux_file_seg, file);
    AT(vgpux_file_seg, reserved);

    SIZE(vgpux_piece);
    AT(vgpux_piece, gpa);
    AT(vgpux_piece, dst);
    AT(vgpux_piece, len);

    SIZE(vgpux_reader);
    AT(vgpux_reader, size);
    AT(vgpux_reader, read);
    AT(vgpux_reader, read_pieces);
    AT(vgpux_reader, read_words);
    AT(vgpux_reader, load_lines);
    AT(vgpux_reader, next_data);
    AT(vgpux_reader, is_cancelled);
    AT(vgpux_reader, batch);
    return 0;
}
