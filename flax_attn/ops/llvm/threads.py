"""Units of work over the threads that XLA runs a computation on, without Python and its lock.

Units are taken one by one from an atomic counter. Helper threads are requested, never waited for:
one that starts late, or never, finds no unit left.
"""

from __future__ import annotations

from ctypes import sizeof

from llvmlite import ir

from flax_attn.ops.llvm.ir import INT, INT32, NULL, POINTER, VOID, Emitter, define
from flax_attn.ops.llvm.xla_ffi import Api, CallFrame, Destroy, Header, NumThreads, Schedule

# unit(context, index, worker): the workers of one job are numbered from 0.
UNIT = ir.FunctionType(VOID, [POINTER, INT, INT])
JOB_FIELDS = ("next", "done", "count", "users", "workers", "unit", "context")
JOB = {name: i for i, name in enumerate(JOB_FIELDS)}


class Libc(dict[str, ir.Function]):
    """The functions of the C library that kernels call, declared when first used."""

    KINDS = {
        "aligned_alloc": (POINTER, [INT, INT]),
        "malloc": (POINTER, [INT]),
        "free": (VOID, [POINTER]),
        "sched_yield": (INT32, []),
        "madvise": (INT32, [POINTER, INT, INT32]),
    }

    def __init__(self, module: ir.Module):
        super().__init__()
        self.module = module

    def __missing__(self, name: str) -> ir.Function:
        returns, kinds = self.KINDS[name]
        self[name] = ir.Function(self.module, ir.FunctionType(returns, kinds), name)
        return self[name]


class Parallel:
    """Adds ``run(frame, unit, context, count)`` and ``threads(frame)`` to a module."""

    def __init__(self, module: ir.Module):
        self.module, self.libc = module, Libc(module)
        self._task = self._build_task()
        self.threads = self._build_threads()
        self.run = self._build_run()

    def _build_run(self) -> ir.Function:
        """Defines ``run``: runs units 0 to count - 1 and waits for them."""
        kinds = [POINTER, POINTER, POINTER, INT]
        e, (frame, unit, context, count) = define(self.module, "run", kinds, 1)
        b = e.builder
        helpers = e.sub(e.minimum(count, b.call(self.threads, [frame])), 1)
        job = b.call(self.libc["malloc"], [e.number(8 * len(JOB))])
        start = {"next": 0, "done": 0, "count": count, "users": e.add(helpers, 1), "workers": 0}
        for name, value in {**start, "unit": unit, "context": context}.items():
            b.store(e.number(value), e.word(job, JOB[name]))
        call = self.struct(e, Schedule)
        _copy_context(e, frame, call, Schedule.ctx.offset)
        b.store(self._task, e.byte_at(call, Schedule.task.offset))
        b.store(job, e.byte_at(call, Schedule.data.offset))
        with e.loop(helpers):
            error = self.call_api(e, frame, "thread_pool_schedule", call)
            with b.if_then(b.icmp_unsigned("!=", error, NULL)):
                self._forget(e, frame, error)
                _count(e, job, "users", "sub")
        _work(e, job)
        self._wait(e, job)
        self._leave(e, job)
        b.ret_void()
        return e.function

    def _build_task(self) -> ir.Function:
        """Defines the function that a helper thread runs."""
        e, (job,) = define(self.module, "task", [POINTER], 1)
        _work(e, job)
        self._leave(e, job)
        e.builder.ret_void()
        return e.function

    def _build_threads(self) -> ir.Function:
        """Defines ``threads``: returns the number of threads, at least one."""
        e, (frame,) = define(self.module, "threads", [POINTER], 1, returns=INT)
        number, call = e.stack(1), self.struct(e, NumThreads)
        e.builder.store(e.number(1), number)
        _copy_context(e, frame, call, NumThreads.ctx.offset)
        e.builder.store(number, e.byte_at(call, NumThreads.num_threads.offset))
        error = self.call_api(e, frame, "thread_pool_num_threads", call)
        with e.builder.if_then(e.builder.icmp_unsigned("!=", error, NULL)):
            self._forget(e, frame, error)
        e.builder.ret(e.maximum(e.builder.load(number, typ=INT), 1))
        return e.function

    def _wait(self, e: Emitter, job: ir.Value) -> None:
        """Emits a wait for the units that other threads have begun."""
        b = e.builder
        head, body, after = (e.function.append_basic_block(n) for n in ("head", "body", "after"))
        b.branch(head)
        b.position_at_end(head)
        done = b.load_atomic(e.word(job, JOB["done"]), "acquire", 8, typ=INT)
        count = b.load(e.word(job, JOB["count"]), typ=INT)
        b.cbranch(b.icmp_unsigned("<", done, count), body, after)
        b.position_at_end(body)
        b.call(self.libc["sched_yield"], [])
        b.branch(head)
        b.position_at_end(after)

    def _leave(self, e: Emitter, job: ir.Value) -> None:
        """Emits the end of a thread's part in a job; the last thread frees the job."""
        users = _count(e, job, "users", "sub")
        with e.builder.if_then(e.builder.icmp_unsigned("==", users, e.number(1))):
            e.builder.call(self.libc["free"], [job])

    def _forget(self, e: Emitter, frame: ir.Value, error: ir.Value) -> None:
        call = self.struct(e, Destroy)
        e.builder.store(error, e.byte_at(call, Destroy.error.offset))
        self.call_api(e, frame, "error_destroy", call, returns=VOID)

    @staticmethod
    def struct(e: Emitter, kind: type[Header]) -> ir.Value:
        """Returns a struct of the interface on the stack, its header filled."""
        size = sizeof(kind)
        struct = e.stack(size // 8)
        e.builder.store(e.number(size), e.byte_at(struct, Header.struct_size.offset))
        e.builder.store(NULL, e.byte_at(struct, Header.extension_start.offset))
        return struct

    @staticmethod
    def call_api(
        e: Emitter, frame: ir.Value, name: str, struct: ir.Value, *, returns: ir.Type = POINTER
    ) -> ir.Value:
        """Calls a function of XLA's interface with its struct."""
        api = e.field(frame, CallFrame.api.offset, POINTER)
        address = e.field(api, getattr(Api, name).offset, POINTER)
        return e.call(address, ir.FunctionType(returns, [POINTER]), [struct])


def _copy_context(e: Emitter, frame: ir.Value, struct: ir.Value, offset: int) -> None:
    e.builder.store(e.field(frame, CallFrame.ctx.offset, POINTER), e.byte_at(struct, offset))


def _count(e: Emitter, job: ir.Value, field: str, operation: str) -> ir.Value:
    """Adds ("add") or subtracts ("sub") one in a field; returns its value before."""
    return e.builder.atomic_rmw(operation, e.word(job, JOB[field]), e.number(1), "acq_rel")


def _work(e: Emitter, job: ir.Value) -> None:
    """Emits a loop that takes units until none is left."""
    b = e.builder
    worker = _count(e, job, "workers", "add")
    unit, context = (b.load(e.word(job, JOB[n]), typ=POINTER) for n in ("unit", "context"))
    count = b.load(e.word(job, JOB["count"]), typ=INT)
    head, body, after = (e.function.append_basic_block(n) for n in ("head", "body", "after"))
    b.branch(head)
    b.position_at_end(head)
    index = _count(e, job, "next", "add")
    b.cbranch(b.icmp_unsigned("<", index, count), body, after)
    b.position_at_end(body)
    e.call(unit, UNIT, [context, index, worker])
    _count(e, job, "done", "add")
    b.branch(head)
    b.position_at_end(after)
