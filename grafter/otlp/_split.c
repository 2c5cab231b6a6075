/* The split, compiled: one walk over a request, one copy of each span.

   grafter.otlp.split says what a split is and has the same in Python; this module is built where there is a compiler
   and is not missed where there is none. It never refuses a request. Whatever it does not know for certain - a field
   of another wire type than OTLP's, a group, an id of another length, bytes that are cut short - it declines, and the
   protobuf runtime decides. What it does answer equals what a full parse gives, for any order of the fields and for
   repeated ones, of which the last counts.

   Source of the field numbers: opentelemetry/proto/trace/v1/trace.proto. Of the wire format:
   https://protobuf.dev/programming-guides/encoding/ */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Raised with every change of what split takes, answers or gets right: grafter.otlp.split leaves any other build alone. */
enum { VERSION = 6 };
enum { VARINT = 0, FIXED64 = 1, LENGTH = 2, FIXED32 = 5 };
enum { ROOT = 1, LOCAL_ROOT = 2, NAMED = 8, BACKWARDS = 16 };
enum { IS_REMOTE = 0x200 };
enum { TRACE_ID_BYTES = 16, SPAN_ID_BYTES = 8 };
/* As grafter.otlp.split has it: a request that is made to cost more than it holds is refused there. */
enum { MAX_RUNS = 50000 };
/* Beside others, one is not kept waiting for more traces or bytes than these: some tenths of a millisecond. */
enum { TRACES_AT_ONCE = 256, BYTES_AT_ONCE = 1 << 16, LONG_SEARCH = 1 << 20 };
/* Bytes of a varint: parsers refuse tags and lengths of more than five, however small their value is. */
enum { SHORT_VARINT = 5, LONG_VARINT = 10 };

#define NONE UINT32_MAX

typedef struct {
    const uint8_t *at, *end;
} Range;

typedef struct {
    const uint8_t *at;
    size_t size;
} Text;

typedef struct {
    Range *items;
    size_t count, room;
} Ranges;

typedef struct {
    Range frame; /* the span with its tag and length, as it stands in the request */
    uint8_t id[SPAN_ID_BYTES];
    uint32_t next; /* the next span of its trace */
} Span;

typedef struct {
    uint8_t id[TRACE_ID_BYTES];
    size_t bytes;
    uint32_t first, last, count, root;
    uint32_t facts;
    uint32_t place; /* in the table */
} Trace;

/* Grows with the largest request so far of one call; freed at its end. */
typedef struct {
    Ranges resources, resource_fields, scopes, scope_fields;
    Span *spans;
    size_t span_count, span_room;
    Trace *traces;
    size_t trace_count, trace_room;
    uint32_t *table; /* trace ids to traces, open addressing; its size is a power of two */
    size_t table_size;
    Text *names;
    Py_ssize_t name_count;
    size_t runs;
    PyObject *give_way; /* called now and then; NULL: nobody waits for this thread */
    size_t kept_waiting; /* since it was called: traces, and bytes for as many as take as long */
} Work;

/* What a step came to. DECLINED: the protobuf runtime is to decide. */
typedef enum { FAILED = -1, DECLINED = 0, DONE = 1 } Step;

static uint64_t seeds[2];

/* --- reading ------------------------------------------------------------------------------------------------ */

/* A varint of at most so many bytes; 0 when it is cut short or longer. */
static int read_varint(Range *in, unsigned most, uint64_t *value) {
    uint64_t out = 0;
    for (unsigned i = 0; i < most && in->at < in->end; i++) {
        uint8_t byte = *in->at++;
        out |= (uint64_t)(byte & 0x7F) << 7 * i;
        if (byte < 0x80) {
            *value = out;
            return 1;
        }
    }
    return 0;
}

typedef struct {
    uint32_t number, wire;
    Range frame; /* with the tag */
    Range body;  /* what a LENGTH field holds; of others, what stands behind the tag */
} Field;

/* The next field of a message that has one; 0 when it is one that the protobuf runtime should judge. */
static inline int read_field(Range *in, Field *field) {
    field->frame.at = in->at;
    uint64_t tag = *in->at, length;
    if (tag < 0x80) {
        in->at++;
    } else if (!read_varint(in, SHORT_VARINT, &tag) || tag > UINT32_MAX) {
        return 0;
    }
    field->number = (uint32_t)(tag >> 3);
    field->wire = (uint32_t)(tag & 7);
    field->body.at = in->at;
    switch (field->wire) {
    case VARINT:
        if (!read_varint(in, LONG_VARINT, &length)) return 0;
        break;
    case FIXED64:
        if (in->end - in->at < 8) return 0;
        in->at += 8;
        break;
    case LENGTH:
        if (in->at < in->end && *in->at < 0x80) {
            length = *in->at++;
        } else if (!read_varint(in, SHORT_VARINT, &length)) {
            return 0;
        }
        if (length > (uint64_t)(in->end - in->at)) return 0;
        field->body.at = in->at;
        in->at += length;
        break;
    case FIXED32:
        if (in->end - in->at < 4) return 0;
        in->at += 4;
        break;
    default:
        return 0;
    }
    field->body.end = field->frame.end = in->at;
    return field->number != 0;
}

static uint64_t read_fixed64(const uint8_t *at) {
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; i++) value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static size_t size_of(Range range) { return (size_t)(range.end - range.at); }

/* --- memory --------------------------------------------------------------------------------------------------- */

/* Room for one more item; 0 when there is no memory. Like all that walks over a scope it needs no interpreter. */
static int make_room(void **items, size_t *room, size_t count, size_t size) {
    if (count < *room) return 1;
    size_t more = *room ? *room * 2 : 64;
    void *grown = more > PTRDIFF_MAX / size ? NULL : realloc(*items, more * size);
    if (grown == NULL) return 0;
    *items = grown;
    *room = more;
    return 1;
}

static int push(Ranges *ranges, Range range) {
    if (!make_room((void **)&ranges->items, &ranges->room, ranges->count, sizeof(Range))) return 0;
    ranges->items[ranges->count++] = range;
    return 1;
}

static PyObject *joined(const Ranges *ranges) {
    size_t size = 0;
    for (size_t i = 0; i < ranges->count; i++) size += size_of(ranges->items[i]);
    PyObject *out = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (out == NULL) return NULL;
    char *to = PyBytes_AsString(out);
    for (size_t i = 0; i < ranges->count; i++) {
        memcpy(to, ranges->items[i].at, size_of(ranges->items[i]));
        to += size_of(ranges->items[i]);
    }
    return out;
}

/* The bytes of a tuple, which keeps them; NULL with an error set. */
static Text *texts_of(PyObject *tuple, Py_ssize_t *count) {
    *count = PyTuple_Size(tuple);
    Text *texts = PyMem_Malloc((size_t)(*count + 1) * sizeof(Text));
    if (texts == NULL) return (Text *)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < *count; i++) {
        char *at;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(tuple, i), &at, &size) < 0) {
            PyMem_Free(texts);
            return NULL;
        }
        texts[i] = (Text){(const uint8_t *)at, (size_t)size};
    }
    return texts;
}

/* --- grouping ------------------------------------------------------------------------------------------------- */

/* Seeded, so that nobody outside can choose ids that fall into one place. */
static size_t place_of(const uint8_t *id) {
    uint64_t a, b;
    memcpy(&a, id, 8);
    memcpy(&b, id + 8, 8);
    a = (a ^ seeds[0]) * UINT64_C(0x9E3779B97F4A7C15);
    a ^= a >> 32;
    b = (b ^ seeds[1] ^ a) * UINT64_C(0xD6E8FEB86659FD93);
    b ^= b >> 32;
    b *= UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(b >> 24);
}

static int grow_table(Work *work) {
    size_t size = work->table_size ? work->table_size * 2 : 256;
    uint32_t *table = malloc(size * sizeof(uint32_t));
    if (table == NULL) return 0;
    free(work->table);
    work->table = table;
    work->table_size = size;
    memset(table, 0xFF, size * sizeof(uint32_t));
    for (size_t i = 0; i < work->trace_count; i++) {
        size_t at = place_of(work->traces[i].id) & (size - 1);
        while (table[at] != NONE) at = (at + 1) & (size - 1);
        table[at] = (uint32_t)i;
        work->traces[i].place = (uint32_t)at;
    }
    return 1;
}

/* Forget the scope before. The table may be a thousand times larger than what it held of that one. */
static void clear(Work *work) {
    for (size_t i = 0; i < work->trace_count; i++) work->table[work->traces[i].place] = NONE;
    work->scope_fields.count = work->span_count = work->trace_count = 0;
}

/* The trace of this id in the scope at hand, begun when it is new; NULL when there is no memory. */
static Trace *trace_of(Work *work, const uint8_t *id) {
    if (work->trace_count * 2 >= work->table_size && !grow_table(work)) return NULL;
    size_t at = place_of(id) & (work->table_size - 1);
    for (; work->table[at] != NONE; at = (at + 1) & (work->table_size - 1)) {
        Trace *known = &work->traces[work->table[at]];
        if (memcmp(known->id, id, TRACE_ID_BYTES) == 0) return known;
    }
    if (!make_room((void **)&work->traces, &work->trace_room, work->trace_count, sizeof(Trace))) return NULL;
    work->table[at] = (uint32_t)work->trace_count;
    Trace *trace = &work->traces[work->trace_count++];
    memset(trace, 0, sizeof *trace);
    memcpy(trace->id, id, TRACE_ID_BYTES);
    trace->root = NONE;
    trace->place = (uint32_t)at;
    return trace;
}

static int all_zero(const uint8_t *at, size_t size) {
    uint8_t any = 0;
    for (size_t i = 0; i < size; i++) any |= at[i];
    return any == 0;
}

/* Whether the name is one that an anchor may have. */
static int is_named(const Work *work, Range name) {
    for (Py_ssize_t i = 0; i < work->name_count; i++) {
        if (work->names[i].size == size_of(name) && memcmp(work->names[i].at, name.at, size_of(name)) == 0) return 1;
    }
    return 0;
}

static Step take_span(Work *work, Field whole) {
    Range in = whole.body, trace_id = {0}, span_id = {0}, parent = {0}, name = {in.at, in.at};
    uint32_t flags = 0;
    uint64_t start = 0, end = 0;
    while (in.at < in.end) {
        Field field;
        if (!read_field(&in, &field)) return DECLINED;
        switch (field.number) {
        case 1: trace_id = field.body; break;
        case 2: span_id = field.body; break;
        case 4: parent = field.body; break;
        case 5: name = field.body; break;
        case 7:
            if (field.wire != FIXED64) return DECLINED;
            start = read_fixed64(field.body.at);
            continue;
        case 8:
            if (field.wire != FIXED64) return DECLINED;
            end = read_fixed64(field.body.at);
            continue;
        case 16:
            if (field.wire != FIXED32) return DECLINED;
            flags = field.body.at[0] | (uint32_t)field.body.at[1] << 8 | (uint32_t)field.body.at[2] << 16 |
                    (uint32_t)field.body.at[3] << 24;
            continue;
        default: continue;
        }
        if (field.wire != LENGTH) return DECLINED;
    }
    if (size_of(trace_id) != TRACE_ID_BYTES || all_zero(trace_id.at, TRACE_ID_BYTES)) return DECLINED;
    if (size_of(span_id) != SPAN_ID_BYTES || all_zero(span_id.at, SPAN_ID_BYTES)) return DECLINED;
    if (size_of(parent) != 0 && size_of(parent) != SPAN_ID_BYTES) return DECLINED;

    Trace *trace = trace_of(work, trace_id.at);
    if (trace == NULL || !make_room((void **)&work->spans, &work->span_room, work->span_count, sizeof(Span))) {
        return FAILED;
    }
    uint32_t number = (uint32_t)work->span_count++;
    Span *span = &work->spans[number];
    span->frame = whole.frame;
    memcpy(span->id, span_id.at, SPAN_ID_BYTES);
    span->next = NONE;
    if (trace->count++ == 0) {
        trace->first = number;
    } else {
        work->spans[trace->last].next = number;
    }
    trace->last = number;
    trace->bytes += size_of(whole.frame);
    if (all_zero(parent.at, size_of(parent))) {
        trace->facts |= ROOT;
        if (trace->root == NONE) trace->root = number;
    } else if (flags & IS_REMOTE) {
        trace->facts |= LOCAL_ROOT;
    }
    if (is_named(work, name)) trace->facts |= NAMED;
    if (end != 0 && end < start) trace->facts |= BACKWARDS;
    return DONE;
}

/* --- what comes out ------------------------------------------------------------------------------------------- */

/* A trace's first root, then its other spans in their order. */
static void copy_trace(const Work *work, const Trace *trace, char *to, char *id_to) {
    uint32_t first = trace->root != NONE ? trace->root : trace->first;
    for (uint32_t at = first; at != NONE;) {
        const Span *span = &work->spans[at];
        memcpy(to, span->frame.at, size_of(span->frame));
        to += size_of(span->frame);
        memcpy(id_to, span->id, SPAN_ID_BYTES);
        id_to += SPAN_ID_BYTES;
        at = at == first ? trace->first : span->next;
        if (at == first) at = work->spans[at].next;
    }
}

/* Payload and span ids of a trace; 0 with an error set when there is no memory. */
static int write_trace(const Work *work, const Trace *trace, PyObject **payload, PyObject **ids) {
    *payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)trace->bytes);
    *ids = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)trace->count * SPAN_ID_BYTES);
    if (*payload == NULL || *ids == NULL) return 0;
    char *to = PyBytes_AsString(*payload), *id_to = PyBytes_AsString(*ids);
    /* Nobody else has the two yet. */
    PyThreadState *others = work->give_way != NULL && trace->bytes > BYTES_AT_ONCE ? PyEval_SaveThread() : NULL;
    copy_trace(work, trace, to, id_to);
    if (others != NULL) PyEval_RestoreThread(others);
    return 1;
}

static int append_new(PyObject *list, PyObject *item) {
    int failed = item == NULL || PyList_Append(list, item) < 0;
    Py_XDECREF(item);
    return !failed;
}

/* Let others run when it is time to; 0 with an error set. */
static int go_on(Work *work) {
    if (work->give_way == NULL || work->kept_waiting < TRACES_AT_ONCE) return 1;
    work->kept_waiting = 0;
    PyObject *nothing = PyObject_CallNoArgs(work->give_way);
    Py_XDECREF(nothing);
    return nothing != NULL;
}

/* One scope's traces as five lists: ids, payloads, counts, facts, span ids. */
static PyObject *write_run(Work *work, PyObject *resource, PyObject *scope) {
    PyObject *columns[5] = {NULL}, *out = NULL;
    for (int i = 0; i < 5; i++) {
        if ((columns[i] = PyList_New(0)) == NULL) goto done;
    }
    for (size_t i = 0; i < work->trace_count; i++) {
        work->kept_waiting++;
        if (!go_on(work)) goto done;
        const Trace *trace = &work->traces[i];
        PyObject *payload = NULL, *ids = NULL;
        int written = write_trace(work, trace, &payload, &ids);
        written = written && PyList_Append(columns[1], payload) == 0 && PyList_Append(columns[4], ids) == 0;
        Py_XDECREF(payload);
        Py_XDECREF(ids);
        if (!written || !append_new(columns[0], PyBytes_FromStringAndSize((const char *)trace->id, TRACE_ID_BYTES)) ||
            !append_new(columns[2], PyLong_FromUnsignedLong(trace->count)) ||
            !append_new(columns[3], PyLong_FromUnsignedLong(trace->facts))) {
            goto done;
        }
    }
    out = PyTuple_Pack(7, resource, scope, columns[0], columns[1], columns[2], columns[3], columns[4]);
done:
    for (int i = 0; i < 5; i++) Py_XDECREF(columns[i]);
    return out;
}

static Step no_memory(void) {
    PyErr_NoMemory();
    return FAILED;
}

/* Group the spans of a scope. */
static Step walk_scope(Work *work, Range scope_spans) {
    clear(work);
    while (scope_spans.at < scope_spans.end) {
        Field field;
        if (!read_field(&scope_spans, &field)) return DECLINED;
        if (field.number != 2) {
            if (!push(&work->scope_fields, field.frame)) return FAILED;
            continue;
        }
        /* A span is kept with the frame that it came in; a frame that is written in an odd way is not. */
        size_t head = (size_t)(field.body.at - field.frame.at), size = size_of(field.body);
        if (field.wire != LENGTH || head != 2u + (size > 0x7F) + (size > 0x3FFF) + (size > 0x1FFFFF) + (size > 0xFFFFFFF)) {
            return DECLINED;
        }
        Step step = take_span(work, field);
        if (step != DONE) return step;
    }
    return DONE;
}

static Step split_scope(Work *work, Range scope_spans, PyObject *resource, PyObject *out) {
    work->kept_waiting += size_of(scope_spans) / (BYTES_AT_ONCE / TRACES_AT_ONCE);
    PyThreadState *others = work->give_way != NULL && size_of(scope_spans) > BYTES_AT_ONCE ? PyEval_SaveThread() : NULL;
    Step step = walk_scope(work, scope_spans);
    if (others != NULL) PyEval_RestoreThread(others);
    if (step == FAILED) return no_memory();
    if (step != DONE || work->span_count == 0) return step;
    PyObject *scope = joined(&work->scope_fields);
    PyObject *run = scope != NULL ? write_run(work, resource, scope) : NULL;
    Py_XDECREF(scope);
    return append_new(out, run) ? DONE : FAILED;
}

static Step split_resource(Work *work, Range resource_spans, PyObject *out) {
    work->resource_fields.count = work->scopes.count = 0;
    while (resource_spans.at < resource_spans.end) {
        Field field;
        if (!read_field(&resource_spans, &field)) return DECLINED;
        if (field.number == 2 && (field.wire != LENGTH || ++work->runs > MAX_RUNS)) return DECLINED;
        Ranges *to = field.number == 2 ? &work->scopes : &work->resource_fields;
        if (!push(to, field.number == 2 ? field.body : field.frame)) return no_memory();
    }
    PyObject *resource = joined(&work->resource_fields);
    if (resource == NULL) return FAILED;
    Step step = DONE;
    for (size_t i = 0; i < work->scopes.count && step == DONE; i++) {
        step = split_scope(work, work->scopes.items[i], resource, out);
    }
    Py_DECREF(resource);
    return step;
}

static Step split_request(Work *work, Range request, PyObject *out) {
    while (request.at < request.end) {
        Field field;
        if (!read_field(&request, &field)) return DECLINED;
        if (field.number != 1) continue;
        if (field.wire != LENGTH || work->resources.count >= MAX_RUNS) return DECLINED;
        if (!push(&work->resources, field.body)) return no_memory();
    }
    Step step = DONE;
    for (size_t i = 0; i < work->resources.count && step == DONE; i++) {
        step = split_resource(work, work->resources.items[i], out);
    }
    return step;
}

PyDoc_STRVAR(split_doc,
"split(request, names, give_way, /)\n--\n\n"
"The traces of a serialised ExportTraceServiceRequest, scope by scope; None where the protobuf runtime has to decide.\n"
"\n"
"Each scope with spans is a tuple: ResourceSpans without scopes and ScopeSpans without spans (bytes as they came), then\n"
"five lists with an entry a trace: trace id, framed spans, number of spans, facts (1 root, 2 local root, 8 a span has\n"
"one of the names), span ids joined. The first root of a trace stands first.\n"
"\n"
"give_way: a function of Python, at whose start the interpreter lets another thread run that waits; None keeps the\n"
"interpreter to the end.");

static PyObject *split(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *bytes;
    Py_ssize_t size;
    PyObject *names, *give_way;
    Work work = {0};
    if (!PyArg_ParseTuple(args, "y#O!O:split", &bytes, &size, &PyTuple_Type, &names, &give_way)) return NULL;
    work.give_way = give_way != Py_None ? give_way : NULL;
    if ((uint64_t)size >= INT32_MAX) Py_RETURN_NONE;
    work.names = texts_of(names, &work.name_count);
    PyObject *out = work.names != NULL ? PyList_New(0) : NULL;
    if (out == NULL) {
        PyMem_Free(work.names);
        return NULL;
    }
    const uint8_t *at = (const uint8_t *)bytes;
    Step step = split_request(&work, (Range){at, at + size}, out);
    PyMem_Free(work.names);
    free(work.resources.items);
    free(work.resource_fields.items);
    free(work.scopes.items);
    free(work.scope_fields.items);
    free(work.spans);
    free(work.traces);
    free(work.table);
    if (step == DONE) return out;
    Py_DECREF(out);
    if (step == FAILED) return NULL;
    Py_RETURN_NONE;
}

/* --- attributes ----------------------------------------------------------------------------------------------- */

/* Whether one of the texts ends there; its size, else 0. */
static size_t ends_with(const uint8_t *start, const uint8_t *end, const Text *texts, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++) {
        size_t size = texts[i].size;
        if ((size_t)(end - start) >= size && memcmp(end - size, texts[i].at, size) == 0) return size;
    }
    return 0;
}

/* Whether one of the texts begins there. */
static int begins_with(const uint8_t *at, const uint8_t *end, const Text *texts, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++) {
        if ((size_t)(end - at) >= texts[i].size && memcmp(at, texts[i].at, texts[i].size) == 0) return 1;
    }
    return 0;
}

PyDoc_STRVAR(mentions_doc,
"mentions(data, keys, beginnings, /)\n--\n\n"
"Whether an attribute with one of these keys, each framed as field 1, seems to stand in protobuf bytes, with a string\n"
"that begins with one of these, each of which ends with an underscore. Strings of 126 bytes and more are passed over.\n"
"The key may stand before its value, as SDKs write it, or behind it, as the Go Collector does. Bytes may only look like\n"
"such an attribute.");

static PyObject *mentions(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *bytes;
    Py_ssize_t size, key_count, beginning_count;
    PyObject *key_tuple, *beginning_tuple;
    if (!PyArg_ParseTuple(args, "y#O!O!:mentions", &bytes, &size, &PyTuple_Type, &key_tuple, &PyTuple_Type,
                          &beginning_tuple)) {
        return NULL;
    }
    Text *keys = texts_of(key_tuple, &key_count);
    Text *beginnings = keys != NULL ? texts_of(beginning_tuple, &beginning_count) : NULL;
    if (beginnings == NULL) {
        PyMem_Free(keys);
        return NULL;
    }
    /* What stands before the underscores of the beginnings. */
    uint8_t last[256] = {0};
    for (Py_ssize_t i = 0; i < beginning_count; i++) {
        if (beginnings[i].size > 1) last[beginnings[i].at[beginnings[i].size - 2]] = 1;
    }
    int found = 0;
    const uint8_t *start = (const uint8_t *)bytes, *at = start, *end = start + size;
    PyThreadState *others = size > LONG_SEARCH ? PyEval_SaveThread() : NULL;
    /* Underscores are rarer than anything else that such an attribute has. */
    while (!found && (at = memchr(at, '_', (size_t)(end - at))) != NULL) {
        at++;
        if (at - start < 2 || !last[at[-2]]) continue;
        size_t beginning = ends_with(start, at, beginnings, beginning_count);
        /* Before the text: its tag and length, and those of the value that holds it. */
        const uint8_t *text = at - beginning;
        if (beginning == 0 || text - start < 4) continue;
        if (text[-2] != 0x0A || text[-4] != 0x12 || text[-3] > 0x7F || text[-3] != text[-1] + 2) continue;
        size_t length = text[-1];
        found = ends_with(start, text - 4, keys, key_count) > 0 ||
                ((size_t)(end - text) > length && begins_with(text + length, end, keys, key_count));
    }
    if (others != NULL) PyEval_RestoreThread(others);
    PyMem_Free(keys);
    PyMem_Free(beginnings);
    return PyBool_FromLong(found);
}

PyDoc_STRVAR(attributes_doc,
"attributes(span, keys, /)\n--\n\n"
"The attributes of a serialised Span, each a KeyValue, whose bytes begin or end with one of these keys, each framed as\n"
"field 1. None where the protobuf runtime should judge the bytes.");

static PyObject *attributes(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *bytes;
    Py_ssize_t size, count;
    PyObject *tuple;
    if (!PyArg_ParseTuple(args, "y#O!:attributes", &bytes, &size, &PyTuple_Type, &tuple)) return NULL;
    Text *keys = texts_of(tuple, &count);
    PyObject *found = keys != NULL ? PyList_New(0) : NULL;
    Range in = {(const uint8_t *)bytes, (const uint8_t *)bytes + size};
    Field field;
    while (found != NULL && in.at < in.end) {
        if (!read_field(&in, &field) || (field.number == 9 && field.wire != LENGTH)) {
            Py_DECREF(found);
            PyMem_Free(keys);
            Py_RETURN_NONE;
        }
        if (field.number != 9) continue;
        if (!begins_with(field.body.at, in.at, keys, count) && !ends_with(field.body.at, in.at, keys, count)) continue;
        PyObject *body = PyBytes_FromStringAndSize((const char *)field.body.at, in.at - field.body.at);
        if (body == NULL || PyList_Append(found, body) < 0) Py_CLEAR(found);
        Py_XDECREF(body);
    }
    PyMem_Free(keys);
    return found;
}

/* --- the module ----------------------------------------------------------------------------------------------- */

static int prepare(PyObject *module) {
    if (PyModule_AddIntConstant(module, "NAMED", NAMED) < 0) return -1;
    if (PyModule_AddIntConstant(module, "BACKWARDS", BACKWARDS) < 0) return -1;
    if (PyModule_AddIntConstant(module, "VERSION", VERSION) < 0) return -1;
    PyObject *os = PyImport_ImportModule("os");
    PyObject *random = os != NULL ? PyObject_CallMethod(os, "urandom", "n", (Py_ssize_t)sizeof seeds) : NULL;
    char *at;
    Py_ssize_t size;
    int failed = random == NULL || PyBytes_AsStringAndSize(random, &at, &size) < 0;
    if (!failed) memcpy(seeds, at, sizeof seeds);
    Py_XDECREF(random);
    Py_XDECREF(os);
    return failed ? -1 : 0;
}

static PyMethodDef methods[] = {{"split", split, METH_VARARGS, split_doc},
                                {"mentions", mentions, METH_VARARGS, mentions_doc},
                                {"attributes", attributes, METH_VARARGS, attributes_doc},
                                {NULL, NULL, 0, NULL}};
static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)prepare}, {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "grafter.otlp._split", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__split(void) { return PyModuleDef_Init(&definition); }
