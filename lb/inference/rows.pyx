"""Batches taken apart into their rows, and answers put together from those of rows: see rows.pxd."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from lb.http.grpc.protobuf cimport (
    WIRE_BYTES, append_field, append_tag, append_varint, cursor, field, next_field, put_varint, span, start_cursor,
    take_varint, varint_size,
)
from lb.inference.answer cimport Answer, OutputTensor, Slice, find_data, read_answer, read_output
from lb.inference.datatypes cimport DT_BYTES, MAX_TENSORS
from lb.inference.request cimport InferRequest
from lb.inference.template cimport Template
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_reserve
from lb.net.stream cimport iovec
from lb.shared.data_digest cimport tg_digest_data
from lb.shared.hashing cimport tg_digest, tg_digest_final, tg_digest_init, tg_digest_update

cdef enum:
    MODEL_NAME = 1                    # fields of ModelInferRequest and ModelInferResponse
    MODEL_VERSION = 2
    PARAMETERS = 4
    TENSORS = 5                       # inputs of the one, outputs of the other
    RAW_OUTPUT = 6
    RAW_INPUT = 7
    REQUEST_ID = 3
    TENSOR_NAME = 1                   # of inputs and outputs
    TENSOR_DATATYPE = 2
    TENSOR_SHAPE = 3
    TENSOR_PARAMETERS = 4
    COPY_MAX = 512                    # bytes in a row that are cheaper copied than sent as a part of their own
    MOST_PARTS = 1000                 # of a message; two for each piece that is not copied
    SLOTS = 2 * MOST_ROWS             # of the table that finds equal rows; a power of two

cdef bytes BATCH_FORM = b"tidegate oip batch by rows"
# Of answers, as of a model server's.
cdef size_t MOST_BYTES = 256 * 1024 * 1024


@cython.final
cdef class Rows:
    """A batch by its rows."""

    def __dealloc__(self):
        free(self.rows)
        free(self.starts)
        free(self.asked)
        free(self.slices)
        tg_buffer_free(&self.found)
        tg_buffer_free(&self.packed)
        tg_buffer_free(&self.form)
        tg_buffer_free(&self.scratch)
        tg_buffer_free(&self.answer)

    # The request.

    cdef int lay_out(self) noexcept:
        """Where the rows of each input begin."""
        cdef Template template = self.request.template
        cdef size_t rows = <size_t>self.count
        cdef size_t *starts
        cdef const char *data
        cdef size_t i, k, at, elements, stride
        cdef uint32_t length
        self.rows = <Row *>malloc(rows * sizeof(Row))
        self.asked = <int *>malloc(rows * sizeof(int))
        self.starts = <size_t *>malloc(<size_t>template.input_count * (rows + 1) * sizeof(size_t))
        if self.rows == NULL or self.asked == NULL or self.starts == NULL:
            return -1
        for k in range(<size_t>template.input_count):
            if template.inputs[k].shared:
                return -1
            starts = self.starts + k * (rows + 1)
            data = <const char *>self.request.tensors[k].iov_base
            if template.inputs[k].datatype != DT_BYTES:
                stride = self.request.tensors[k].iov_len // rows
                for i in range(rows + 1):
                    starts[i] = i * stride
                continue
            # The lengths were followed once before, as the request was read: they lead to the end of the data.
            at = 0
            for i in range(rows):
                starts[i] = at
                elements = <size_t>template.inputs[k].count // rows
                while elements:
                    memcpy(&length, data + at, 4)
                    at += 4 + <size_t>length
                    elements -= 1
            starts[rows] = at
        return 0

    cdef int hash_rows(self, const unsigned char *secret) noexcept:
        cdef Template template = self.request.template
        cdef size_t rows = <size_t>self.count
        cdef tg_digest state
        cdef const size_t *starts
        cdef size_t row
        cdef int i, k
        for row in range(rows):
            if (tg_digest_init(&state, secret) < 0
                    or tg_digest_update(&state, template.row_meaning.data, template.row_meaning.end) < 0):
                return -1
            for i in range(template.input_count):
                k = template.order[i]
                starts = self.starts + <size_t>k * (rows + 1) + row
                if tg_digest_data(&state, secret, <const char *>self.request.tensors[k].iov_base + starts[0],
                                  starts[1] - starts[0]) < 0:
                    return -1
            if tg_digest_final(&state, self.rows[row].key) < 0:
                return -1
        return 0

    cdef int digest(self, const unsigned char *secret, unsigned char *out) noexcept:
        cdef tg_digest state
        cdef int i
        # No meaning of a request begins like this: see template.FORM.
        if (tg_digest_init(&state, secret) < 0
                or tg_digest_update(&state, <const char *>BATCH_FORM, <size_t>len(BATCH_FORM)) < 0):
            return -1
        for i in range(self.count):
            if tg_digest_update(&state, self.rows[i].key, 32) < 0:
                return -1
        return tg_digest_final(&state, out)

    cdef void find_repeats(self) noexcept:
        cdef int[SLOTS] table
        cdef uint64_t hashed
        cdef uint32_t slot
        cdef int i
        memset(table, 0, sizeof(table))
        for i in range(self.count):
            memcpy(&hashed, self.rows[i].key, 8)
            slot = <uint32_t>hashed & (SLOTS - 1)
            while table[slot] and memcmp(self.rows[table[slot] - 1].key, self.rows[i].key, 32) != 0:
                slot = (slot + 1) & (SLOTS - 1)
            if table[slot] == 0:
                table[slot] = i + 1
                self.distinct += 1
            self.rows[i].same = table[slot] - 1

    cdef void forget(self) noexcept:
        cdef int i
        self.whole = False
        self.asked_count = 0
        for i in range(self.count):
            self.rows[i].found = False
        tg_buffer_clear(&self.found)
        tg_buffer_clear(&self.packed)
        tg_buffer_clear(&self.form)

    cdef void take(self, int row, size_t size) noexcept:
        self.rows[row].found = True
        self.rows[row].size = size
        self.rows[row].at = self.found.end - size

    cdef int settle(self) noexcept:
        cdef Row *row
        cdef int i
        for i in range(self.count):
            row = &self.rows[i]
            if row.same != i:
                continue
            # One that does not go with those before it, such as another version's, is asked for anew.
            row.found = row.found and self.take_answer(self.found.data + row.at, row.size, &i, 1) == 0
            if not row.found:
                self.asked[self.asked_count] = i
                self.asked_count += 1
        return self.asked_count

    cdef InferRequest ask_whole(self):
        cdef int i
        self.forget()
        self.whole = True
        self.asked_count = self.count
        for i in range(self.count):
            self.asked[i] = i
        return self.request

    cdef size_t run_end(self, int at) noexcept:
        """The place behind the last row that follows the asked one `at` both in the question and in the batch."""
        cdef int end = at + 1
        while end < self.asked_count and self.asked[end] == self.asked[end - 1] + 1:
            end += 1
        return <size_t>end

    cdef InferRequest ask(self):
        cdef InferRequest whole = self.request
        cdef Template template = whole.template
        cdef InferRequest made
        cdef size_t rows = <size_t>self.count
        cdef size_t id_size = <size_t>len(whole.id)
        cdef size_t copy_max = COPY_MAX
        cdef size_t pieces = 0
        cdef size_t copied = 0
        cdef size_t passed = 0
        cdef size_t owned, begin, end, size
        cdef const size_t *starts
        cdef const char *data
        cdef iovec *parts
        cdef char *start
        cdef char *at
        cdef int count = 0
        cdef int k
        if self.asked_count == self.count:
            return self.ask_whole()
        tg_buffer_clear(&self.scratch)
        if write_tensors(&self.scratch, template.head.data + template.id_at, template.head.end - template.id_at,
                         self.asked_count) < 0:
            return None
        owned = template.id_at + self.scratch.end + <size_t>template.input_count * 11
        if id_size:
            owned += 1 + varint_size(id_size) + id_size
        for k in range(template.input_count):
            starts = self.starts + <size_t>k * (rows + 1)
            begin = 0
            while begin < <size_t>self.asked_count:
                end = self.run_end(<int>begin)
                size = starts[self.asked[end - 1] + 1] - starts[self.asked[begin]]
                if size > COPY_MAX:
                    pieces += 1
                    passed += size
                else:
                    copied += size
                begin = end
        if 2 * pieces + 1 > MOST_PARTS:
            pieces = 0
            copied += passed
            copy_max = passed
        owned += copied
        made = InferRequest.__new__(InferRequest)
        parts = <iovec *>malloc((2 * pieces + 1) * sizeof(iovec) + owned)
        if parts == NULL:
            return None
        made.parts = parts
        start = at = <char *>(parts + 2 * pieces + 1)
        memcpy(at, template.head.data, template.id_at)
        at += template.id_at
        if id_size:
            at[0] = REQUEST_ID << 3 | WIRE_BYTES
            at = put_varint(at + 1, id_size)
            memcpy(at, <const char *>whole.id, id_size)
            at += id_size
        memcpy(at, self.scratch.data, self.scratch.end)
        at += self.scratch.end
        for k in range(template.input_count):
            starts = self.starts + <size_t>k * (rows + 1)
            data = <const char *>whole.tensors[k].iov_base
            at[0] = RAW_INPUT << 3 | WIRE_BYTES
            at = put_varint(at + 1, self.asked_size(starts))
            begin = 0
            while begin < <size_t>self.asked_count:
                end = self.run_end(<int>begin)
                size = starts[self.asked[end - 1] + 1] - starts[self.asked[begin]]
                if size > copy_max:
                    if at > start:
                        parts[count] = iovec(start, <size_t>(at - start))
                        made.message_size += parts[count].iov_len
                        count += 1
                        start = at
                    parts[count] = iovec(<void *>(data + starts[self.asked[begin]]), size)
                    made.message_size += size
                    count += 1
                elif size:
                    memcpy(at, data + starts[self.asked[begin]], size)
                    at += size
                begin = end
        if at > start:
            parts[count] = iovec(start, <size_t>(at - start))
            made.message_size += parts[count].iov_len
            count += 1
        made.part_count = count
        made.model = whole.model
        made.version = whole.version
        made.id = whole.id
        made.batch = self.asked_count
        made.cacheable = whole.cacheable
        made.timeout_us = whole.timeout_us
        made.sequence = whole.sequence
        made.sequence_start = whole.sequence_start
        made.sequence_end = whole.sequence_end
        made.template = template
        made.owner = whole                    # where the rows' data is
        return made

    cdef size_t asked_size(self, const size_t *starts) noexcept:
        cdef size_t size = 0
        cdef int i
        for i in range(self.asked_count):
            size += starts[self.asked[i] + 1] - starts[self.asked[i]]
        return size

    # The answer.

    cdef int take_answer(self, const char *message, size_t size, const int *places, int count) noexcept:
        """Reads an answer for the rows `places`. -1, with nothing changed that counts: it does not go with those before
        it, is no answer for `count` rows, or memory is out."""
        cdef Answer answer
        cdef OutputTensor output
        cdef Slice[MAX_TENSORS] found
        cdef int[MAX_TENSORS] datatypes
        cdef int64_t[MAX_TENSORS] elements
        cdef const char *wrong = NULL
        cdef tg_buffer form
        cdef Slice *slices
        cdef const char *data
        cdef size_t at, piece
        cdef int64_t left
        cdef uint32_t length
        cdef int raw = 0
        cdef int i, k
        tg_buffer_clear(&self.scratch)
        if read_answer(&answer, message, size) != NULL or answer.output_count == 0:
            return -1
        if write_form(&self.scratch, &answer) < 0:
            return -1
        for k in range(answer.output_count):
            if (read_output(&output, &answer.outputs[k]) != NULL or output.rank == 0 or output.shape[0] != count
                    or write_output(&self.scratch, &output) < 0
                    or find_data(&output, &answer, &raw, &self.packed, &found[k], &wrong) < 0):
                return -1
            datatypes[k] = output.datatype
            elements[k] = output.count // count
        if raw != answer.raw_count:
            return -1
        if self.form.end == 0:
            # Of what is read first, all others must have the form.
            if answer.output_count > self.output_count:
                free(self.slices)
                self.output_count = 0
                self.slices = <Slice *>malloc(<size_t>answer.output_count * <size_t>self.count * sizeof(Slice))
                if self.slices == NULL:
                    return -1
            self.output_count = answer.output_count
            form = self.form
            self.form = self.scratch
            self.scratch = form
        elif self.form.end != self.scratch.end or memcmp(self.form.data, self.scratch.data, self.form.end) != 0:
            return -1
        for k in range(answer.output_count):
            slices = self.slices + <size_t>k * <size_t>self.count
            at = 0
            for i in range(count):
                if datatypes[k] == DT_BYTES:
                    data = found[k].data if found[k].data != NULL else self.packed.data + found[k].at
                    piece = 0
                    left = elements[k]
                    while left:
                        memcpy(&length, data + at + piece, 4)
                        piece += 4 + <size_t>length
                        left -= 1
                else:
                    piece = found[k].size // <size_t>count
                slices[places[i]].data = found[k].data + at if found[k].data != NULL else NULL
                slices[places[i]].at = found[k].at + at
                slices[places[i]].size = piece
                at += piece
        return 0

    cdef int combine(self, const char *message, size_t size) noexcept:
        if self.asked_count and self.take_answer(message, size, self.asked, self.asked_count) < 0:
            return -1
        return self.assemble()

    cdef int assemble(self) noexcept:
        cdef tg_buffer *out = &self.answer
        cdef const Slice *slices
        cdef const Slice *data
        cdef size_t whole
        cdef int i, k
        tg_buffer_clear(out)
        if write_tensors(out, self.form.data, self.form.end, self.count) < 0:
            return -1
        for k in range(self.output_count):
            slices = self.slices + <size_t>k * <size_t>self.count
            whole = 0
            for i in range(self.count):
                whole += slices[self.place(i)].size
            if (out.end + whole > MOST_BYTES or append_tag(out, RAW_OUTPUT, WIRE_BYTES) < 0
                    or append_varint(out, whole) < 0 or tg_buffer_reserve(out, whole) < 0):
                return -1
            for i in range(self.count):
                data = &slices[self.place(i)]
                # Cannot fail: the room is there.
                tg_buffer_append(out, data.data if data.data != NULL else self.packed.data + data.at, data.size)
        return 0

    cdef inline int place(self, int row) noexcept:
        """Whose answer is the row's."""
        return row if self.whole else self.rows[row].same

    cdef int row_answer(self, int row, tg_buffer *out) noexcept:
        cdef const Slice *data
        cdef int k
        if tg_buffer_append(out, self.form.data, self.form.end) < 0:
            return -1
        for k in range(self.output_count):
            data = self.slices + <size_t>k * <size_t>self.count + row
            if append_field(out, RAW_OUTPUT, data.data if data.data != NULL else self.packed.data + data.at,
                            data.size) < 0:
                return -1
        return 0

    def __repr__(self):
        return f"<Rows {self.count} asked={self.asked_count} of {self.request!r}>"


cdef Rows split_rows(InferRequest request, const unsigned char *secret):
    cdef Template template = request.template
    cdef Rows rows
    if not 2 <= template.rows <= MOST_ROWS:
        return None
    if template.row_meaning.end == 0 and write_row_meaning(template) < 0:
        tg_buffer_clear(&template.row_meaning)
        return None
    rows = Rows.__new__(Rows)
    rows.request = request
    rows.count = <int>template.rows
    if rows.lay_out() < 0 or rows.hash_rows(secret) < 0:
        return None
    rows.find_repeats()
    rows.forget()
    return rows


cdef int write_row_meaning(Template template) noexcept:
    """The meaning of a request with one row: see Template.meaning, whose frames are a length and so many bytes."""
    cdef tg_buffer *out = &template.row_meaning
    cdef tg_buffer scratch = tg_buffer(NULL, 0, 0, 0)
    cdef const char *at = template.meaning.data + template.inputs_at + 8
    cdef uint64_t size
    cdef uint64_t written
    cdef int result = tg_buffer_append(out, template.meaning.data, template.inputs_at + 8)
    cdef int _
    for _ in range(template.input_count):
        memcpy(&size, at, sizeof(size))
        tg_buffer_clear(&scratch)
        if result == 0:
            result = write_tensor(&scratch, at + 8, <size_t>size, 1)
        written = scratch.end
        if result == 0:
            result = tg_buffer_append(out, &written, sizeof(written))
        if result == 0:
            result = tg_buffer_append(out, scratch.data, scratch.end)
        at += 8 + size
    if result == 0:
        result = tg_buffer_append(out, at, template.meaning.end - <size_t>(at - template.meaning.data))
    tg_buffer_free(&scratch)
    return result


cdef int write_tensor(tg_buffer *out, const char *tensor, size_t size, int rows) noexcept:
    """Appends an input or output in our own form with another first dimension. -1: out of memory."""
    cdef cursor c
    cdef field f
    cdef cursor shape
    cdef uint64_t first
    cdef const char *at
    cdef size_t rest
    cdef int more
    start_cursor(&c, tensor, size)
    while True:
        at = <const char *>c.at
        more = next_field(&c, &f)
        if more <= 0:
            return more
        if f.number != TENSOR_SHAPE:
            if tg_buffer_append(out, at, <size_t>(<const char *>c.at - at)) < 0:
                return -1
            continue
        start_cursor(&shape, f.bytes.data, f.bytes.size)
        if take_varint(&shape, &first) < 0:
            return -1
        rest = <size_t>(shape.end - shape.at)
        if (append_tag(out, TENSOR_SHAPE, WIRE_BYTES) < 0
                or append_varint(out, varint_size(<uint64_t>rows) + rest) < 0
                or append_varint(out, <uint64_t>rows) < 0
                or tg_buffer_append(out, shape.at, rest) < 0):
            return -1


cdef int write_tensors(tg_buffer *out, const char *message, size_t size, int rows) noexcept:
    """Appends a message in our own form, whose inputs or outputs get another first dimension. -1: out of memory."""
    cdef tg_buffer scratch = tg_buffer(NULL, 0, 0, 0)
    cdef cursor c
    cdef field f
    cdef const char *at
    cdef int result = 0
    cdef int more
    start_cursor(&c, message, size)
    while result == 0:
        at = <const char *>c.at
        more = next_field(&c, &f)
        if more <= 0:
            result = more
            break
        if f.number != TENSORS:
            result = tg_buffer_append(out, at, <size_t>(<const char *>c.at - at))
            continue
        tg_buffer_clear(&scratch)
        result = write_tensor(&scratch, f.bytes.data, f.bytes.size, rows)
        if result == 0:
            result = append_field(out, TENSORS, scratch.data, scratch.end)
    tg_buffer_free(&scratch)
    return result


cdef int write_form(tg_buffer *out, Answer *answer) noexcept:
    """Appends what an answer says beside its outputs. -1: out of memory."""
    cdef int i
    if answer.model.size and append_field(out, MODEL_NAME, answer.model.data, answer.model.size) < 0:
        return -1
    if answer.version.size and append_field(out, MODEL_VERSION, answer.version.data, answer.version.size) < 0:
        return -1
    sort_spans(answer.parameters, answer.parameter_count)
    for i in range(answer.parameter_count):
        if append_field(out, PARAMETERS, answer.parameters[i].data, answer.parameters[i].size) < 0:
            return -1
    return 0


cdef int write_output(tg_buffer *out, OutputTensor *output) noexcept:
    """Appends an output without its data, for one row. -1: out of memory."""
    cdef tg_buffer tensor = tg_buffer(NULL, 0, 0, 0)
    cdef size_t shape_size = 1
    cdef int result = -1
    cdef int i
    for i in range(1, output.rank):
        shape_size += varint_size(<uint64_t>output.shape[i])
    if (append_field(&tensor, TENSOR_NAME, output.name.data, output.name.size) == 0
            and append_field(&tensor, TENSOR_DATATYPE, output.datatype_name.data, output.datatype_name.size) == 0
            and append_tag(&tensor, TENSOR_SHAPE, WIRE_BYTES) == 0 and append_varint(&tensor, shape_size) == 0
            and append_varint(&tensor, 1) == 0):
        result = 0
    for i in range(1, output.rank):
        if result == 0:
            result = append_varint(&tensor, <uint64_t>output.shape[i])
    sort_spans(output.parameters, output.parameter_count)
    for i in range(output.parameter_count):
        if result == 0:
            result = append_field(&tensor, TENSOR_PARAMETERS, output.parameters[i].data, output.parameters[i].size)
    if result == 0:
        result = append_field(out, TENSORS, tensor.data, tensor.end)
    tg_buffer_free(&tensor)
    return result


cdef void sort_spans(span *spans, int count) noexcept:
    """Entries of a map, which encoders write in any order."""
    cdef span moved
    cdef int i, j
    for i in range(1, count):
        moved = spans[i]
        j = i
        while j and before(&moved, &spans[j - 1]):
            spans[j] = spans[j - 1]
            j -= 1
        spans[j] = moved


cdef bint before(const span *a, const span *b) noexcept:
    cdef size_t size = min(a.size, b.size)
    cdef int order = memcmp(a.data, b.data, size) if size else 0
    return order < 0 or order == 0 and a.size < b.size
