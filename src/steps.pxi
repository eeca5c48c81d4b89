# Steps as Python wrote them made the structures of program/program.h: part of network.pyx.

OPERANDS = {elementwise_names[i].decode().rstrip("_"): elementwise_operands[i] for i in range(elementwise_count)}
"""Of the functions of single elements how many operands each has."""

cdef dict CODES = {name: i for i, name in enumerate(OPERANDS)}
cdef dict SPACES = {"": space_none, "arena": space_arena, "constant": space_constant, "state": space_state,
                    "ring": space_ring}
cdef dict KINDS = {
    "elementwise": step_elementwise, "product": step_product, "recurrent": step_recurrent,
    "side_by_side": step_side_by_side, "reduce": step_reduce, "softmax": step_softmax, "log_softmax": step_log_softmax,
    "arg_max": step_arg_max, "normalise": step_normalise, "window": step_window, "multiply": step_multiply,
    "lookup": step_lookup, "list": step_list, "fill": step_fill, "latest": step_latest,
}
cdef dict STORAGES = {"float32": storage_float32, "bfloat16": storage_bfloat16, "float16": storage_float16,
                      "int8": storage_int8}
cdef dict TYPES = {
    np.dtype(np.float32): type_float32, np.dtype(np.float64): type_float64, np.dtype(np.int64): type_int64,
    np.dtype(np.int32): type_int32, np.dtype(np.int16): type_int16, np.dtype(np.int8): type_int8,
    np.dtype(np.uint8): type_uint8, np.dtype(np.bool_): type_bool,
}
NUMBERS = tuple(TYPES)
"""The dtypes of arrays that a program reads and writes."""


# Sizes, or strides, of the axes that there are, which are the last ones.
cdef void put_axes(int64_t* to, given, int64_t missing, bint first=False):
    cdef int i, count = len(given)
    for i in range(most_axes):
        to[i] = missing
    for i in range(count):
        to[i if first else most_axes - count + i] = given[i]


cdef void put_operand(Operand& to, given, bint first):
    memset(&to, 0, sizeof(Operand))
    if given is None:
        return
    to.space = SPACES[given.space]
    to.offset, to.row, to.inside = given.offset, given.row, given.inside
    put_axes(to.stride, given.strides, 0, first)


cdef class Program:
    """Steps in order, as program/program.h has them; keeps alive what they point to."""
    cdef CProgram program
    cdef list kept  # alive
    cdef Step* steps
    cdef Kept* states
    cdef Ring* rings
    cdef Port* inputs
    cdef Port* outputs

    def __cinit__(self, value):
        self.kept = [value]
        self.steps = <Step*> calloc(max(1, len(value.steps)), sizeof(Step))
        self.states = <Kept*> calloc(max(1, len(value.kept)), sizeof(Kept))
        self.rings = <Ring*> calloc(max(1, len(value.rings)), sizeof(Ring))
        self.inputs = <Port*> calloc(max(1, len(value.inputs)), sizeof(Port))
        self.outputs = <Port*> calloc(max(1, len(value.outputs)), sizeof(Port))
        if not (self.steps and self.states and self.rings and self.inputs and self.outputs):
            raise MemoryError()
        for i, step in enumerate(value.steps):
            self.put_step(self.steps[i], step)
        for i, kept in enumerate(value.kept):
            put_operand(self.states[i].source, kept.source, True)
            self.states[i].to, self.states[i].count = kept.to, kept.size
        for i, ring in enumerate(value.rings):
            self.rings[i].frame, self.rings[i].history, self.rings[i].empty = ring.frame, ring.history, ring.empty
        for i, port in enumerate(value.inputs):
            self.put_port(self.inputs[i], port)
        for i, port in enumerate(value.outputs):
            self.put_port(self.outputs[i], port)
        self.program.packed, self.program.nodes = &table.packed, table.nodes32
        self.program.steps, self.program.step_count = self.steps, len(value.steps)
        self.program.kept, self.program.kept_count = self.states, len(value.kept)
        self.program.rings, self.program.ring_count = self.rings, len(value.rings)
        self.program.inputs, self.program.input_count = self.inputs, len(value.inputs)
        self.program.outputs, self.program.output_count = self.outputs, len(value.outputs)
        self.program.constants = <const float*> self.address(value.constants, np.float32)
        self.program.fresh = <const float*> self.address(value.fresh, np.float32)
        self.program.arena, self.program.plain, self.program.delay = value.arena, len(value.fresh), value.delay
        self.program.flops, self.program.early, self.program.tail = value.flops, value.early, value.tail
        meets = np.empty(len(value.steps) + 1, np.uint8)
        self.kept.append(meets)
        find_meetings(self.program, <uint8_t*> cnp.PyArray_DATA(<cnp.ndarray> meets))
        self.program.meets = <const uint8_t*> cnp.PyArray_DATA(<cnp.ndarray> meets)

    def __dealloc__(self):
        free(self.steps)
        free(self.states)
        free(self.rings)
        free(self.inputs)
        free(self.outputs)

    # Where the contiguous form of an array is, from a cache line on.
    cdef void* address(self, array, dtype):
        contiguous = np.ascontiguousarray(array, dtype)
        memory = np.empty(contiguous.nbytes + 64, np.uint8)
        start = -memory.ctypes.data % 64
        aligned = memory[start : start + contiguous.nbytes].view(contiguous.dtype)
        aligned[...] = contiguous.ravel()
        self.kept.append(aligned)
        return cnp.PyArray_DATA(<cnp.ndarray> aligned)

    cdef put_port(self, Port& to, port):
        put_operand(to.at, port.at, False)
        put_axes(to.size, port.sizes, 1)
        to.over_time, to.more = port.over_time, port.more

    cdef put_step(self, Step& to, step):
        memset(&to, 0, sizeof(Step))
        to.kind = KINDS[step.kind]
        along = step.kind not in ("elementwise", "fill")  # sizes and strides stand from the first on
        to.code = CODES[step.code] if step.kind == "elementwise" else int(step.code or 0)
        to.ahead, to.more, to.clears = step.ahead, step.more, step.clears
        put_operand(to.out, step.out, along)
        for i, operand in enumerate(step.operands):
            put_operand(to.operands[i], operand, along)
        put_axes(to.size, step.sizes, 1, along)
        put_axes(to.strides, step.strides, 0, True)
        to.p, to.q, to.flat = step.p, step.q, step.flat
        if step.kind == "product":
            to.outputs, to.length = step.outputs, step.length
            to.groups, to.x_next, to.y_next = step.groups
            to.pieces[0], to.pieces[1] = step.pieces
            to.distances[0], to.distances[1] = step.distances
            to.afters = len(step.after)
            for i, (code, p, q, operand) in enumerate(step.after):
                to.after[i] = After(CODES[code], operand, p, q)
            to.sections = len(step.sections)
            for i, section in enumerate(step.sections):
                self.put_section(to.section[i], section)
        if step.kind == "recurrent":
            self.kept.append(step.weights)
            to.layer = <const PackedLayer*> <uintptr_t> step.weights.address
            to.over_time, to.reverse, to.made = step.over_time, step.reverse, step.made
            to.has_start, to.has_end, to.has_initial = (operand is not None for operand in step.operands[1:])
        if step.kind == "side_by_side":
            self.put_members(to, step)
        if step.kind == "list":
            to.to = <const int32_t*> self.address(step.to, np.int32)
            to.source = <const int32_t*> self.address(step.source, np.int32)

    cdef put_members(self, Step& to, step):
        cdef Step* members
        memory = np.zeros(len(step.members) * sizeof(Step), np.uint8)
        self.kept.append(memory)
        members = <Step*> cnp.PyArray_DATA(<cnp.ndarray> memory)
        for i, member in enumerate(step.members):
            self.put_step(members[i], member)
        lanes = step.lanes
        to.over_time = step.over_time
        to.members, to.member_count, to.slots = members, len(step.members), len(lanes.masks)
        to.lanes.cell = members[0].layer.cell
        to.lanes.inputs, to.lanes.hidden = lanes.inputs, lanes.hidden
        to.lanes.input_stride = members[0].operands[0].stride[2]
        to.lanes.first = <const float*> self.address(lanes.first, np.int32)
        to.lanes.masks = <const float*> self.address(lanes.masks, np.int32)
        to.lane_weights = <const float*> self.address(lanes.weights, np.float32)

    cdef put_section(self, PackedLayer& to, section):
        cdef CanonicalLayer given
        cdef char* start
        numbers = np.ascontiguousarray(section.numbers)
        bias = np.ascontiguousarray(section.bias, np.float32)
        memset(&given, 0, sizeof(CanonicalLayer))
        given.inputs, given.hidden = numbers.shape[1], numbers.shape[0] // section.vectors
        given.storage, given.cell = STORAGES[section.storage], section.vectors
        given.input.numbers = cnp.PyArray_DATA(<cnp.ndarray> numbers)
        given.input.limit = float("inf") if section.limit is None else section.limit
        if section.scale is not None:
            scale = np.ascontiguousarray(section.scale, np.float32)
            given.input.scale = <const float*> cnp.PyArray_DATA(<cnp.ndarray> scale)
        given.bias = <const float*> cnp.PyArray_DATA(<cnp.ndarray> bias)
        size = pack_dense(table.packed, given, NULL, to)
        memory = np.empty(size + 64, np.uint8)
        self.kept.append(memory)
        start = <char*> cnp.PyArray_DATA(<cnp.ndarray> memory)
        pack_dense(table.packed, given, start + (-<uintptr_t> start & 63), to)

    # An array as a port reads or writes it. One of its axes may be time, and one the rows; -1: none is.
    cdef void bind(self, Array& to, cnp.ndarray array, int time, int rows):
        cdef int axis, place = most_axes - 1
        to.data = <char*> cnp.PyArray_DATA(array)
        to.type = TYPES[array.dtype]
        to.frame_stride = cnp.PyArray_STRIDE(array, time) if time >= 0 else 0
        to.row_stride = cnp.PyArray_STRIDE(array, rows) if rows >= 0 else 0
        for axis in range(most_axes):
            to.stride[axis] = 0
        for axis in range(cnp.PyArray_NDIM(array) - 1, -1, -1):
            if axis != time and axis != rows:
                to.stride[place] = cnp.PyArray_STRIDE(array, axis)
                place -= 1

    def run(self, inputs, outputs, int64_t steps, int64_t batch, int threads):
        """Whole sequences: arrays with their axes of time and of rows, in the order of the ports.

        Returns -1, or the number of the step that met an index out of range.
        """
        cdef Sequences call
        cdef Array[32] given
        cdef Array[32] written
        cdef int64_t wrong = -1
        cdef Outcome outcome
        for i, (array, time, rows) in enumerate(inputs):
            self.bind(given[i], array, time, rows)
        for i, (array, time, rows) in enumerate(outputs):
            self.bind(written[i], array, time, rows)
        call.steps, call.batch, call.threads = steps, batch, threads
        call.inputs, call.outputs = given, written
        call.interrupted = ask_signals
        with nogil:
            outcome = run_sequences(self.program, call, wrong)
        finish(outcome)
        return wrong
