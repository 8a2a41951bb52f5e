"""The structs of XLA's foreign function interface that handlers read and write.

Fields are in the order of ``xla/ffi/api/c_api.h``, which jaxlib ships; a struct ends with the last
field that is used here.
"""

from __future__ import annotations

from ctypes import POINTER as pointer_to
from ctypes import Structure, c_int, c_int32, c_int64, c_size_t, c_void_p

# The version of the interface that these structs belong to.
VERSION = (0, 3)
EXTENSION_METADATA = 1
# The code of an error for want of memory.
RESOURCE_EXHAUSTED = 8


class Header(Structure):
    """The fields that every struct of XLA's foreign function interface begins with."""

    _fields_ = [("struct_size", c_size_t), ("extension_start", c_void_p)]


class Version(Header):
    """The version of the interface."""

    _fields_ = [("major", c_int), ("minor", c_int)]


class Metadata(Structure):
    """The answer to a query: the version that a handler was written for."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("api_version", Version),
        ("traits", c_int32),
        ("state_type_id", c_int64),
    ]


class MetadataExtension(Structure):
    """The query for a handler's version, and the address of the answer."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("type", c_int),
        ("next", c_void_p),
        ("metadata", pointer_to(Metadata)),
    ]


class Buffer(Header):
    """An argument or a result: its type, address and shape."""

    _fields_ = [("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("dims", c_void_p)]


class CallValues(Header):
    """The arguments or the results of a call."""

    _fields_ = [("size", c_int64), ("types", c_void_p), ("values", c_void_p)]


class CallFrame(Header):
    """A call of a handler: the interface, the context, the arguments and the results."""

    _fields_ = [
        ("api", c_void_p),
        ("ctx", c_void_p),
        ("stage", c_int),
        ("args", CallValues),
        ("rets", CallValues),
    ]


class Api(Header):
    """The functions of the interface, by address."""

    _fields_ = [
        ("api_version", Version),
        ("internal_api", c_void_p),
        ("error_create", c_void_p),
        ("error_get_message", c_void_p),
        ("error_destroy", c_void_p),
        ("handler_register", c_void_p),
        ("stream_get", c_void_p),
        ("type_register", c_void_p),
        ("execution_context_get", c_void_p),
        ("state_set", c_void_p),
        ("state_get", c_void_p),
        ("device_memory_allocate", c_void_p),
        ("device_memory_free", c_void_p),
        ("thread_pool_schedule", c_void_p),
        ("thread_pool_num_threads", c_void_p),
    ]


class Schedule(Header):
    """The arguments of ``thread_pool_schedule``."""

    _fields_ = [("ctx", c_void_p), ("task", c_void_p), ("data", c_void_p)]


class NumThreads(Header):
    """The arguments of ``thread_pool_num_threads``."""

    _fields_ = [("ctx", c_void_p), ("num_threads", c_void_p)]


class Destroy(Header):
    """The arguments of ``error_destroy``."""

    _fields_ = [("error", c_void_p)]


class CreateError(Header):
    """The arguments of ``error_create``."""

    _fields_ = [("message", c_void_p), ("code", c_int)]
