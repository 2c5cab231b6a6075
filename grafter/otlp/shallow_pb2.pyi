from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("resource_spans",)
    RESOURCE_SPANS_FIELD_NUMBER: _ClassVar[int]
    resource_spans: _containers.RepeatedCompositeFieldContainer[ResourceRun]
    def __init__(self, resource_spans: _Optional[_Iterable[_Union[ResourceRun, _Mapping]]] = ...) -> None: ...

class ResourceRun(_message.Message):
    __slots__ = ("scope_spans",)
    SCOPE_SPANS_FIELD_NUMBER: _ClassVar[int]
    scope_spans: _containers.RepeatedCompositeFieldContainer[ScopeRun]
    def __init__(self, scope_spans: _Optional[_Iterable[_Union[ScopeRun, _Mapping]]] = ...) -> None: ...

class ScopeRun(_message.Message):
    __slots__ = ("spans",)
    SPANS_FIELD_NUMBER: _ClassVar[int]
    spans: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, spans: _Optional[_Iterable[bytes]] = ...) -> None: ...

class HeadRequest(_message.Message):
    __slots__ = ("resource_spans",)
    RESOURCE_SPANS_FIELD_NUMBER: _ClassVar[int]
    resource_spans: _containers.RepeatedCompositeFieldContainer[HeadResourceRun]
    def __init__(self, resource_spans: _Optional[_Iterable[_Union[HeadResourceRun, _Mapping]]] = ...) -> None: ...

class HeadResourceRun(_message.Message):
    __slots__ = ("scope_spans",)
    SCOPE_SPANS_FIELD_NUMBER: _ClassVar[int]
    scope_spans: _containers.RepeatedCompositeFieldContainer[HeadScopeRun]
    def __init__(self, scope_spans: _Optional[_Iterable[_Union[HeadScopeRun, _Mapping]]] = ...) -> None: ...

class HeadScopeRun(_message.Message):
    __slots__ = ("spans",)
    SPANS_FIELD_NUMBER: _ClassVar[int]
    spans: _containers.RepeatedCompositeFieldContainer[Head]
    def __init__(self, spans: _Optional[_Iterable[_Union[Head, _Mapping]]] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("trace_id", "span_id", "trace_state", "parent_span_id", "name", "kind", "start_time_unix_nano", "end_time_unix_nano", "flags")
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_STATE_FIELD_NUMBER: _ClassVar[int]
    PARENT_SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    START_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    END_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    trace_id: bytes
    span_id: bytes
    trace_state: bytes
    parent_span_id: bytes
    name: bytes
    kind: int
    start_time_unix_nano: int
    end_time_unix_nano: int
    flags: int
    def __init__(self, trace_id: _Optional[bytes] = ..., span_id: _Optional[bytes] = ..., trace_state: _Optional[bytes] = ..., parent_span_id: _Optional[bytes] = ..., name: _Optional[bytes] = ..., kind: _Optional[int] = ..., start_time_unix_nano: _Optional[int] = ..., end_time_unix_nano: _Optional[int] = ..., flags: _Optional[int] = ...) -> None: ...

class Attributed(_message.Message):
    __slots__ = ("attributes",)
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    attributes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, attributes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class TallyRequest(_message.Message):
    __slots__ = ("resource_spans",)
    RESOURCE_SPANS_FIELD_NUMBER: _ClassVar[int]
    resource_spans: TallyResourceRun
    def __init__(self, resource_spans: _Optional[_Union[TallyResourceRun, _Mapping]] = ...) -> None: ...

class TallyResourceRun(_message.Message):
    __slots__ = ("scope_spans",)
    SCOPE_SPANS_FIELD_NUMBER: _ClassVar[int]
    scope_spans: TallyScopeRun
    def __init__(self, scope_spans: _Optional[_Union[TallyScopeRun, _Mapping]] = ...) -> None: ...

class TallyScopeRun(_message.Message):
    __slots__ = ("spans",)
    SPANS_FIELD_NUMBER: _ClassVar[int]
    spans: Tally
    def __init__(self, spans: _Optional[_Union[Tally, _Mapping]] = ...) -> None: ...

class Tally(_message.Message):
    __slots__ = ("trace_id", "span_id", "parent_span_id", "name", "flags")
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    trace_id: _containers.RepeatedScalarFieldContainer[bytes]
    span_id: _containers.RepeatedScalarFieldContainer[bytes]
    parent_span_id: _containers.RepeatedScalarFieldContainer[bytes]
    name: _containers.RepeatedScalarFieldContainer[bytes]
    flags: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, trace_id: _Optional[_Iterable[bytes]] = ..., span_id: _Optional[_Iterable[bytes]] = ..., parent_span_id: _Optional[_Iterable[bytes]] = ..., name: _Optional[_Iterable[bytes]] = ..., flags: _Optional[_Iterable[int]] = ...) -> None: ...

class SurveyScopeRun(_message.Message):
    __slots__ = ("spans",)
    SPANS_FIELD_NUMBER: _ClassVar[int]
    spans: Survey
    def __init__(self, spans: _Optional[_Union[Survey, _Mapping]] = ...) -> None: ...

class Survey(_message.Message):
    __slots__ = ("trace_state", "start_time_unix_nano", "end_time_unix_nano", "status")
    TRACE_STATE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    END_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    trace_state: _containers.RepeatedScalarFieldContainer[bytes]
    start_time_unix_nano: _containers.RepeatedScalarFieldContainer[int]
    end_time_unix_nano: _containers.RepeatedScalarFieldContainer[int]
    status: SurveyStatus
    def __init__(self, trace_state: _Optional[_Iterable[bytes]] = ..., start_time_unix_nano: _Optional[_Iterable[int]] = ..., end_time_unix_nano: _Optional[_Iterable[int]] = ..., status: _Optional[_Union[SurveyStatus, _Mapping]] = ...) -> None: ...

class SurveyStatus(_message.Message):
    __slots__ = ("code",)
    CODE_FIELD_NUMBER: _ClassVar[int]
    code: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, code: _Optional[_Iterable[int]] = ...) -> None: ...
