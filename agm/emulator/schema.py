"""
The request messages of the three APIs, and reading proto3 JSON into them.

The table below is the shape of what clients may send, in a notation of its own: a line a message, a word a field.
``name:Type`` is one value, ``name:*Type`` a list, ``name:{}Type`` a map from strings.  A field's value lists the
kinds that have it after ``@`` (``k`` API key, ``v`` Vertex AI, ``c`` code-assist); without, all have it.

:func:`read` accepts what Google accepts: camelCase and snake_case names, enums by name or number, numbers as strings,
a lone value for a list, null for nothing.  It refuses the rest in Google's words, every violation at once.  What it
returns is canonical: camelCase names, enums by name.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

import attrs

from agm.emulator.errors import Kind, Violation, bad_request, invalid_value, unknown_name

_MESSAGES = """
GenerateContentRequest
    model:string contents:*Content systemInstruction:Content tools:*Tool toolConfig:ToolConfig
    safetySettings:*SafetySetting generationConfig:GenerationConfig cachedContent:string labels:{}string@vc
    serviceTier:string@k store:bool@k modelArmorConfig:Any@v sessionId:string@c

GenerateContentEnvelope
    project:string model:string request:GenerateContentRequest requestId:string requestType:string userAgent:string
    userPromptId:string enabledCreditTypes:*string

CountTokensRequest@k
    model:string contents:*Content generateContentRequest:GenerateContentRequest
CountTokensRequest@v
    model:string endpoint:string instances:*Value contents:*Content systemInstruction:Content tools:*Tool
    generationConfig:GenerationConfig
CountTokensRequest@c
    model:string contents:*Content
CountTokensEnvelope
    request:CountTokensRequest

Content
    parts:*Part role:string
Part
    text:string|data inlineData:Blob|data functionCall:FunctionCall|data functionResponse:FunctionResponse|data
    fileData:FileData|data executableCode:ExecutableCode|data codeExecutionResult:CodeExecutionResult|data
    toolCall:ToolCall|data toolResponse:ToolResponse|data
    thought:bool thoughtSignature:bytes videoMetadata:VideoMetadata mediaResolution:PartMediaResolution
    partMetadata:Struct
Blob
    mimeType:string data:bytes displayName:string@vc
FileData
    mimeType:string fileUri:string displayName:string@vc
FunctionCall
    id:string name:string args:Struct partialArgs:*Any@vc willContinue:bool@vc
FunctionResponse
    id:string name:string response:Struct parts:*FunctionResponsePart willContinue:bool@k
    scheduling:FunctionResponse.Scheduling
FunctionResponsePart
    inlineData:Blob|data fileData:FileData|data
ExecutableCode
    id:string language:ExecutableCode.Language code:string
CodeExecutionResult
    id:string outcome:CodeExecutionResult.Outcome output:string
ToolCall
    id:string toolType:string args:Struct
ToolResponse
    id:string toolType:string response:Struct
VideoMetadata
    startOffset:string endOffset:string fps:double
PartMediaResolution
    level:MediaResolution.Level numTokens:int32

Tool
    functionDeclarations:*FunctionDeclaration googleSearch:GoogleSearch
    googleSearchRetrieval:GoogleSearchRetrieval codeExecution:Empty urlContext:Empty googleMaps:GoogleMaps
    computerUse:ComputerUse fileSearch:FileSearch@k mcpServers:*Any@k retrieval:Any@vc
    enterpriseWebSearch:EnterpriseWebSearch@vc
FunctionDeclaration
    name:string description:string parameters:Schema parametersJsonSchema:Value response:Schema
    responseJsonSchema:Value behavior:FunctionDeclaration.Behavior
Schema
    type:Type format:string title:string description:string nullable:bool enum:*string items:Schema
    maxItems:int64 minItems:int64 properties:{}Schema required:*string minProperties:int64 maxProperties:int64
    minLength:int64 maxLength:int64 pattern:string example:Value anyOf:*Schema propertyOrdering:*string default:Value
    minimum:double maximum:double additionalProperties:Value@vc ref:string@vc defs:{}Schema@vc
GoogleSearch
    timeRangeFilter:Interval excludeDomains:*string@vc blockingConfidence:string@vc searchTypes:Any
Interval
    startTime:string endTime:string
GoogleSearchRetrieval
    dynamicRetrievalConfig:DynamicRetrievalConfig
DynamicRetrievalConfig
    mode:DynamicRetrievalConfig.Mode dynamicThreshold:float
GoogleMaps
    enableWidget:bool authConfig:Any@vc
ComputerUse
    environment:ComputerUse.Environment excludedPredefinedFunctions:*string
FileSearch
    fileSearchStoreNames:*string topK:int32 metadataFilter:string
EnterpriseWebSearch
    excludeDomains:*string blockingConfidence:string
ToolConfig
    functionCallingConfig:FunctionCallingConfig retrievalConfig:RetrievalConfig includeServerSideToolInvocations:bool@k
FunctionCallingConfig
    mode:FunctionCallingConfig.Mode allowedFunctionNames:*string streamFunctionCallArguments:bool@vc
RetrievalConfig
    latLng:LatLng languageCode:string
LatLng
    latitude:double longitude:double

SafetySetting
    category:HarmCategory threshold:SafetySetting.HarmBlockThreshold method:SafetySetting.HarmBlockMethod@vc
GenerationConfig
    candidateCount:int32 stopSequences:*string maxOutputTokens:int32 temperature:float topP:float topK:float seed:int32
    responseMimeType:string responseSchema:Schema responseJsonSchema:Value presencePenalty:float
    frequencyPenalty:float responseLogprobs:bool logprobs:int32 enableEnhancedCivicAnswers:bool
    responseModalities:*GenerationConfig.Modality speechConfig:SpeechConfig thinkingConfig:ThinkingConfig
    imageConfig:ImageConfig mediaResolution:GenerationConfig.MediaResolution responseFormat:Any
    audioTimestamp:bool@vc routingConfig:Any@vc modelSelectionConfig:Any@vc enableAffectiveDialog:bool
    audioTranscriptionConfig:Any translationConfig:Any
ThinkingConfig
    includeThoughts:bool thinkingBudget:int32 thinkingLevel:ThinkingConfig.ThinkingLevel
ImageConfig
    aspectRatio:string imageSize:string personGeneration:string@vc imageOutputOptions:Any@vc outputMimeType:string@vc
    outputCompressionQuality:int32@vc prominentPeople:string@vc
SpeechConfig
    voiceConfig:VoiceConfig multiSpeakerVoiceConfig:MultiSpeakerVoiceConfig languageCode:string
VoiceConfig
    prebuiltVoiceConfig:PrebuiltVoiceConfig replicatedVoiceConfig:Any@vc
PrebuiltVoiceConfig
    voiceName:string
MultiSpeakerVoiceConfig
    speakerVoiceConfigs:*SpeakerVoiceConfig
SpeakerVoiceConfig
    speaker:string voiceConfig:VoiceConfig

EmbedContentRequest@k
    model:string content:Content taskType:TaskType title:string outputDimensionality:int32
EmbedContentRequest@v
    model:string content:Content taskType:TaskType title:string outputDimensionality:int32 autoTruncate:bool
    embedContentConfig:Any
BatchEmbedContentsRequest@k
    model:string requests:*EmbedContentRequest
PredictRequest
    model:string endpoint:string instances:*Value parameters:Value labels:{}string

LoadCodeAssistRequest
    cloudaicompanionProject:string metadata:ClientMetadata mode:string
OnboardUserRequest
    tierId:string cloudaicompanionProject:string metadata:ClientMetadata
ClientMetadata
    ideType:string ideVersion:string pluginVersion:string platform:string updateChannel:string duetProject:string
    pluginType:string ideName:string
RetrieveUserQuotaRequest
    project:string userAgent:string
FetchAvailableModelsRequest
    project:string

CachedContent
    name:string displayName:string model:string systemInstruction:Content contents:*Content tools:*Tool
    toolConfig:ToolConfig ttl:string expireTime:string createTime:string updateTime:string usageMetadata:Any
    encryptionSpec:Any@v
CreateFileRequest
    file:File
File
    name:string displayName:string mimeType:string sizeBytes:int64 createTime:string updateTime:string
    expirationTime:string sha256Hash:bytes uri:string state:string source:string
BatchGenerateContentRequest
    batch:GenerateContentBatch
GenerateContentBatch
    model:string name:string displayName:string inputConfig:InputConfig priority:int64
InputConfig
    fileName:string requests:InlinedRequests
InlinedRequests
    requests:*InlinedRequest
InlinedRequest
    request:GenerateContentRequest metadata:Struct
AsyncBatchEmbedContentRequest@k
    batch:EmbedContentBatch
EmbedContentBatch@k
    model:string name:string displayName:string inputConfig:InputEmbedContentConfig priority:int64
InputEmbedContentConfig@k
    fileName:string requests:InlinedEmbedContentRequests
InlinedEmbedContentRequests@k
    requests:*InlinedEmbedContentRequest
InlinedEmbedContentRequest@k
    request:EmbedContentRequest metadata:Struct
RegisterFilesRequest@k
    uris:*string

FileSearchStore@k
    name:string displayName:string embeddingModel:string createTime:string updateTime:string
    activeDocumentsCount:int64 pendingDocumentsCount:int64 failedDocumentsCount:int64 sizeBytes:int64
UploadToFileSearchStoreRequest@k
    displayName:string customMetadata:*CustomMetadata chunkingConfig:ChunkingConfig mimeType:string
ImportFileRequest@k
    fileName:string customMetadata:*CustomMetadata chunkingConfig:ChunkingConfig
CustomMetadata@k
    key:string stringValue:string|value stringListValue:StringList|value numericValue:float|value
StringList@k
    values:*string
ChunkingConfig@k
    whiteSpaceConfig:WhiteSpaceConfig
WhiteSpaceConfig@k
    maxTokensPerChunk:int32 maxOverlapTokens:int32

TunedModel@k
    name:string displayName:string description:string baseModel:string tunedModelSource:TunedModelSource
    temperature:float topP:float topK:int32 tuningTask:TuningTask readerProjectNumbers:*int64 state:string
    createTime:string updateTime:string
TunedModelSource@k
    tunedModel:string baseModel:string
TuningTask@k
    startTime:string completeTime:string snapshots:Any trainingData:TuningData hyperparameters:TuningHyperparameters
TuningData@k
    examples:TuningExamples
TuningExamples@k
    examples:*TuningExample
TuningExample@k
    textInput:string output:string
TuningHyperparameters@k
    epochCount:int32 batchSize:int32 learningRate:float learningRateMultiplier:float

ComputeTokensRequest@v
    model:string instances:*Value contents:*Content
FetchPredictOperationRequest@v
    operationName:string
BatchPredictionJob@v
    name:string displayName:string model:string modelParameters:Value inputConfig:Any outputConfig:Any
    instanceConfig:Any labels:{}string encryptionSpec:Any
UpdateModel@v
    name:string displayName:string description:string labels:{}string
TuningJob@v
    name:string baseModel:string preTunedModel:Any tunedModelDisplayName:string description:string labels:{}string
    supervisedTuningSpec:Any preferenceOptimizationSpec:Any reinforcementTuningSpec:Any distillationSpec:Any
    veoTuningSpec:Any experiment:string serviceAccount:string encryptionSpec:Any outputUri:string
    customBaseModel:string evaluateDatasetRuns:Any

BidiGenerateContentClientMessage
    setup:BidiGenerateContentSetup|messageType clientContent:BidiGenerateContentClientContent|messageType
    realtimeInput:BidiGenerateContentRealtimeInput|messageType
    toolResponse:BidiGenerateContentToolResponse|messageType contextUpdate:Any|messageType@v
BidiGenerateContentSetup
    model:string generationConfig:GenerationConfig systemInstruction:Content tools:*Tool safetySettings:*SafetySetting
    sessionResumption:SessionResumptionConfig contextWindowCompression:Any inputAudioTranscription:Any
    outputAudioTranscription:Any proactivity:Any realtimeInputConfig:Any historyConfig:Any explicitVadSignal:bool
    avatarConfig:Any labels:{}string@v
SessionResumptionConfig
    handle:string transparent:bool
BidiGenerateContentClientContent
    turns:*Content turnComplete:bool
BidiGenerateContentRealtimeInput
    mediaChunks:*Blob audio:Blob video:Blob text:string activityStart:Empty activityEnd:Empty audioStreamEnd:bool
BidiGenerateContentToolResponse
    functionResponses:*FunctionResponse
AuthToken
    name:string uses:int32 expireTime:string newSessionExpireTime:string fieldMask:string
    bidiGenerateContentSetup:BidiGenerateContentSetup

Empty
"""

# Values by number, from 0.  A gap is a dot.
_ENUMS = """
Type TYPE_UNSPECIFIED STRING NUMBER INTEGER BOOLEAN ARRAY OBJECT NULL
FunctionCallingConfig.Mode MODE_UNSPECIFIED AUTO ANY NONE VALIDATED
FunctionDeclaration.Behavior UNSPECIFIED BLOCKING NON_BLOCKING
FunctionResponse.Scheduling SCHEDULING_UNSPECIFIED SILENT WHEN_IDLE INTERRUPT
ExecutableCode.Language LANGUAGE_UNSPECIFIED PYTHON
CodeExecutionResult.Outcome OUTCOME_UNSPECIFIED OUTCOME_OK OUTCOME_FAILED OUTCOME_DEADLINE_EXCEEDED
DynamicRetrievalConfig.Mode MODE_UNSPECIFIED MODE_DYNAMIC
ComputerUse.Environment ENVIRONMENT_UNSPECIFIED ENVIRONMENT_BROWSER ENVIRONMENT_MOBILE ENVIRONMENT_DESKTOP
MediaResolution.Level MEDIA_RESOLUTION_UNSPECIFIED MEDIA_RESOLUTION_LOW MEDIA_RESOLUTION_MEDIUM MEDIA_RESOLUTION_HIGH
    MEDIA_RESOLUTION_ULTRA_HIGH
GenerationConfig.MediaResolution MEDIA_RESOLUTION_UNSPECIFIED MEDIA_RESOLUTION_LOW MEDIA_RESOLUTION_MEDIUM
    MEDIA_RESOLUTION_HIGH
GenerationConfig.Modality MODALITY_UNSPECIFIED TEXT IMAGE AUDIO VIDEO
ThinkingConfig.ThinkingLevel THINKING_LEVEL_UNSPECIFIED LOW MEDIUM HIGH MINIMAL
HarmCategory HARM_CATEGORY_UNSPECIFIED HARM_CATEGORY_DEROGATORY HARM_CATEGORY_TOXICITY HARM_CATEGORY_VIOLENCE
    HARM_CATEGORY_SEXUAL HARM_CATEGORY_MEDICAL HARM_CATEGORY_DANGEROUS HARM_CATEGORY_HARASSMENT
    HARM_CATEGORY_HATE_SPEECH HARM_CATEGORY_SEXUALLY_EXPLICIT HARM_CATEGORY_DANGEROUS_CONTENT
    HARM_CATEGORY_CIVIC_INTEGRITY HARM_CATEGORY_JAILBREAK HARM_CATEGORY_IMAGE_HATE
    HARM_CATEGORY_IMAGE_DANGEROUS_CONTENT HARM_CATEGORY_IMAGE_HARASSMENT HARM_CATEGORY_IMAGE_SEXUALLY_EXPLICIT
SafetySetting.HarmBlockThreshold HARM_BLOCK_THRESHOLD_UNSPECIFIED BLOCK_LOW_AND_ABOVE BLOCK_MEDIUM_AND_ABOVE
    BLOCK_ONLY_HIGH BLOCK_NONE OFF
SafetySetting.HarmBlockMethod HARM_BLOCK_METHOD_UNSPECIFIED SEVERITY PROBABILITY
TaskType TASK_TYPE_UNSPECIFIED RETRIEVAL_QUERY RETRIEVAL_DOCUMENT SEMANTIC_SIMILARITY CLASSIFICATION CLUSTERING
    QUESTION_ANSWERING FACT_VERIFICATION CODE_RETRIEVAL_QUERY
"""

_KIND_LETTERS = {Kind.API_KEY: "k", Kind.VERTEX: "v", Kind.CODE_ASSIST: "c"}


@attrs.frozen
class Field:
    """A field: its name in both spellings, its type, and the oneof it belongs to."""

    name: str
    type: str
    repeated: bool = False
    mapped: bool = False
    oneof: str | None = None

    @property
    def snake(self) -> str:
        """The name in the .proto file, which is what errors show."""
        return snake_case(self.name)


def snake_case(name: str) -> str:
    """Return a camelCase name as the .proto file spells it."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), name)


Table = Mapping[str, Mapping[str, Field]]


def _parse_field(word: str, letter: str) -> Field | None:
    word, _, kinds = word.partition("@")
    if kinds and letter not in kinds:
        return None
    word, _, oneof = word.partition("|")
    name, _, kind = word.partition(":")
    return Field(
        name=name,
        type=kind.removeprefix("*").removeprefix("{}"),
        repeated=kind.startswith("*"),
        mapped=kind.startswith("{}"),
        oneof=oneof or None,
    )


def _parse_messages(text: str, letter: str) -> Table:
    """Return the table for one kind of upstream: message name to fields, by both spellings of their names."""
    table: dict[str, dict[str, Field]] = {}
    fields: dict[str, Field] | None = None
    for line in filter(str.strip, text.splitlines()):
        if not line.startswith(" "):
            name, _, kinds = line.strip().partition("@")
            fields = {} if not kinds or letter in kinds else None
            if fields is not None:
                table[name] = fields
            continue
        for word in line.split() if fields is not None else ():
            field = _parse_field(word, letter)
            if field is not None and fields is not None:
                fields[field.name] = fields[field.snake] = field
    return table


def _parse_enums(text: str) -> Mapping[str, tuple[str, ...]]:
    joined = text.replace("\n    ", " ")
    return {words[0]: tuple(words[1:]) for line in joined.splitlines() if (words := line.split())}


TABLES: Mapping[Kind, Table] = {kind: _parse_messages(_MESSAGES, letter) for kind, letter in _KIND_LETTERS.items()}
ENUMS = _parse_enums(_ENUMS)


def read(document: Any, message: str, kind: Kind) -> dict[str, Any]:
    """
    Read a JSON document as `message` of an upstream kind.

    :return: the message with camelCase names, enums by name and defaults left out.
    :raises GoogleError: 400 with a violation for each thing that is wrong.
    """
    reader = _Reader(kind)
    read = reader.message(document, message, "")
    if reader.violations:
        raise bad_request(reader.violations)
    return read


_INTEGERS = {"int32": 2**31, "int64": 2**63}


class _Reader:
    """Walks a document along the table and collects violations."""

    def __init__(self, kind: Kind) -> None:
        self.violations: list[Violation] = []
        self._table = TABLES[kind]
        self._package = kind.package

    def message(self, value: Any, message: str, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._invalid(path, f"type.googleapis.com/{self._package}.{message}", value)
            return {}
        fields = self._table[message]
        read: dict[str, Any] = {}
        taken: dict[str, str] = {}
        for name, given in value.items():
            field = fields.get(name)
            if field is None:
                self.violations.append(unknown_name(name, path))
                continue
            if given is None and field.type != "Value":
                continue  # proto3 JSON: null is an absent field
            if field.oneof is not None:
                if field.oneof in taken:
                    self.violations.append(
                        Violation(
                            path,
                            f"Invalid value at '{path}' (oneof), oneof field '{field.oneof}' is already set. "
                            f"Cannot set '{field.name}'",
                        )
                    )
                    continue
                taken[field.oneof] = name
            if isinstance(given, list) and not field.repeated and field.type not in ("Value", "Any"):
                why = "Proto field is not repeating, cannot start list."
                self.violations.append(unknown_name(name, path, why))
                continue
            read[field.name] = self._field(given, field, f"{path}.{field.snake}" if path else field.snake)
        return read

    def _field(self, value: Any, field: Field, path: str) -> Any:
        if field.mapped:
            return self._map(value, field, path)
        if field.repeated:
            items = value if isinstance(value, list) else [value]
            return [self._one(item, field.type, f"{path}[{index}]") for index, item in enumerate(items)]
        return self._one(value, field.type, path)

    def _map(self, value: Any, field: Field, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._invalid(path, "Map", value)
            return {}
        return {
            key: self._one(item, field.type, f"{path}[{index}].value")
            for index, (key, item) in enumerate(value.items())
        }

    def _one(self, value: Any, type_name: str, path: str) -> Any:
        if type_name in self._table:
            return self.message(value, type_name, path)
        if type_name in ENUMS:
            return self._enum(value, type_name, path)
        match type_name:
            case "Value" | "Any":
                return value
            case "Struct":
                if not isinstance(value, dict):
                    self._invalid(path, "type.googleapis.com/google.protobuf.Struct", value)
                    return {}
                return value
            case "string":
                if not isinstance(value, str):
                    self._invalid(path, "TYPE_STRING", value)
                return value
            case "bool":
                return self._bool(value, path)
            case "bytes":
                return self._bytes(value, path)
            case "float" | "double":
                return self._float(value, type_name, path)
            case _:
                return self._integer(value, type_name, path)

    def _invalid(self, path: str, type_name: str, value: Any) -> None:
        self.violations.append(invalid_value(path, type_name, value))

    def _enum(self, value: Any, enum: str, path: str) -> Any:
        names = ENUMS[enum]
        if isinstance(value, str):
            # Google's parser folds case: ai-sdk sends `"type": "object"`.
            if value.upper() in names:
                return value.upper()
            if not value.isdigit():
                self._invalid(path, f"type.googleapis.com/{self._package}.{enum}", value)
                return value
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self._invalid(path, f"type.googleapis.com/{self._package}.{enum}", value)
            return value
        # proto3 keeps numbers that it does not know.
        return names[value] if 0 <= value < len(names) else value

    def _bool(self, value: Any, path: str) -> Any:
        if value in ("true", "false"):
            return value == "true"
        if not isinstance(value, bool):
            self._invalid(path, "TYPE_BOOL", value)
        return value

    def _bytes(self, value: Any, path: str) -> Any:
        if not isinstance(value, str):
            self._invalid(path, "TYPE_BYTES", value)
            return ""
        if _decoded_length(value) is None:
            shown = value[:64]
            self.violations.append(
                Violation(path, f"Invalid value at '{path}' (TYPE_BYTES), Base64 decoding failed for \"{shown}\"")
            )
        return value

    def _float(self, value: Any, type_name: str, path: str) -> Any:
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                pass
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        self._invalid(path, f"TYPE_{type_name.upper()}", value)
        return value

    def _integer(self, value: Any, type_name: str, path: str) -> Any:
        limit = _INTEGERS[type_name]
        number = value
        digits = isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value)
        if digits or (isinstance(value, float) and value.is_integer()):
            number = int(value)
        if isinstance(number, bool) or not isinstance(number, int) or not -limit <= number < limit:
            self._invalid(path, f"TYPE_{type_name.upper()}", value)
        return number


_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def decode_bytes(text: str) -> bytes:
    """
    Return the bytes of a ``bytes`` field: base64 of either alphabet, padded or not.

    :raises ValueError: if it is neither.
    """
    try:
        raw = text.encode("ascii").translate(_URL_SAFE).rstrip(b"=")
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error) as problem:
        raise ValueError("not base64") from problem


def _decoded_length(text: str) -> int | None:
    try:
        return len(decode_bytes(text))
    except ValueError:
        return None
