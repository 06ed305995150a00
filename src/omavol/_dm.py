"""The cffi binding of libdevmapper (libdevmapper.h, dmsetup(8)); setup.py compiles it to `omavol._libdevmapper`.

Only what is called is declared. `block.dm` is its face; nothing else imports it.
"""

from cffi import FFI

ffibuilder = FFI()
ffibuilder.cdef(
    """
    int dm_get_library_version(char *version, size_t size);
    int dm_driver_version(char *version, size_t size);
    """
)
ffibuilder.set_source("omavol._libdevmapper", "#include <libdevmapper.h>", libraries=["devmapper"])
