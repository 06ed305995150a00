"""The cffi binding of libdevmapper (libdevmapper.h, dmsetup(8)); setup.py compiles it to `omavol._libdevmapper`.

Only what is called is declared. `block.dm` and `block.mapper` are its faces; nothing else imports it.
"""

from cffi import FFI

ffibuilder = FFI()
ffibuilder.cdef(
    """
    int dm_get_library_version(char *version, size_t size);
    int dm_driver_version(char *version, size_t size);

    struct dm_info {
        int exists;
        int suspended;
        int live_table;
        int inactive_table;
        int32_t open_count;
        uint32_t event_nr;
        uint32_t major;
        uint32_t minor;
        int read_only;
        int32_t target_count;
        int deferred_remove;
        int internal_suspend;
    };
    struct dm_names { uint64_t dev; uint32_t next; char name[]; };
    struct dm_deps { uint32_t count; uint32_t filler; uint64_t device[]; };
    struct dm_task;

    enum {
        DM_DEVICE_CREATE, DM_DEVICE_RELOAD, DM_DEVICE_REMOVE, DM_DEVICE_SUSPEND, DM_DEVICE_RESUME, DM_DEVICE_INFO,
        DM_DEVICE_DEPS, DM_DEVICE_RENAME, DM_DEVICE_STATUS, DM_DEVICE_TABLE, DM_DEVICE_LIST, DM_DEVICE_CLEAR, ...
    };
    enum {
        DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG, DM_UDEV_DISABLE_DISK_RULES_FLAG, DM_UDEV_DISABLE_OTHER_RULES_FLAG, ...
    };

    struct dm_task *dm_task_create(int type);
    void dm_task_destroy(struct dm_task *task);
    int dm_task_set_name(struct dm_task *task, const char *name);
    int dm_task_set_uuid(struct dm_task *task, const char *uuid);
    int dm_task_set_newname(struct dm_task *task, const char *name);
    int dm_task_set_ro(struct dm_task *task);
    int dm_task_no_flush(struct dm_task *task);
    int dm_task_skip_lockfs(struct dm_task *task);
    int dm_task_retry_remove(struct dm_task *task);
    int dm_task_deferred_remove(struct dm_task *task);
    int dm_task_add_target(struct dm_task *task, uint64_t start, uint64_t size, const char *kind, const char *params);
    int dm_task_set_cookie(struct dm_task *task, uint32_t *cookie, uint16_t flags);
    int dm_task_run(struct dm_task *task);
    int dm_task_get_errno(struct dm_task *task);
    int dm_task_get_info(struct dm_task *task, struct dm_info *info);
    const char *dm_task_get_name(const struct dm_task *task);
    const char *dm_task_get_uuid(const struct dm_task *task);
    struct dm_names *dm_task_get_names(struct dm_task *task);
    struct dm_deps *dm_task_get_deps(struct dm_task *task);
    void *dm_get_next_target(
        struct dm_task *task, void *next, uint64_t *start, uint64_t *length, char **kind, char **params);
    int dm_udev_wait(uint32_t cookie);
    void dm_udev_set_sync_support(int sync_with_udev);
    void dm_lib_release(void);

    void oma_dm_listen(void);
    const char *oma_dm_said(void);
    """
)
ffibuilder.set_source(
    "omavol._libdevmapper",
    """
    #include <libdevmapper.h>
    #include <stdarg.h>
    #include <stdio.h>

    /* What the library last complained of: it would write that to stderr. One thread owns the library. */
    static char said[512];

    static void hear(int level, const char *file, int line, int error, const char *format, ...)
    {
        va_list arguments;
        (void)file; (void)line; (void)error;
        if ((level & 7) > 3)            /* warnings, information */
            return;
        va_start(arguments, format);
        vsnprintf(said, sizeof said, format, arguments);
        va_end(arguments);
    }

    static void oma_dm_listen(void) { said[0] = 0; dm_log_with_errno_init(hear); }
    static const char *oma_dm_said(void) { return said; }
    """,
    libraries=["devmapper"],
)
