"""The cffi binding that _dm.py describes; the functions are those of libdevmapper.h."""

from typing import Any

class _Lib:
    def dm_get_library_version(self, version: Any, size: int) -> int: ...
    def dm_driver_version(self, version: Any, size: int) -> int: ...

class _Ffi:
    def new(self, declaration: str, value: int) -> Any: ...
    def string(self, value: Any) -> bytes: ...

ffi: _Ffi
lib: _Lib
