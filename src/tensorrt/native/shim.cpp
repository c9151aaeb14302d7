// A C interface to the TensorRT calls we need.
//
// No TensorRT symbol is linked: Rust opens the library and passes its factory functions in, so that one binary starts
// on a machine without TensorRT. Compiles against the headers of TensorRT 10, 11 and TensorRT-RTX. Their virtual tables
// differ between majors (RTX: between minors), so a build drives only what it was compiled for, and the caller compares
// versions before any call. A handle is the object's pointer; each *_new has its *_free. Nothing here waits for the
// device, and no exception leaves.
#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>

using namespace nvinfer1;

extern "C" {
typedef void (*shim_log_fn)(void* user, int32_t severity, char const* text);
typedef int32_t (*shim_progress_fn)(void* user, char const* phase, char const* parent, int32_t step, int32_t steps);
typedef int32_t (*shim_tensor_fn)(void* user, int32_t is_input, char const* name, int32_t type, int32_t rank,
                                  int64_t const* dims);
typedef void (*shim_bytes_fn)(void* user, void const* data, size_t len);
typedef void* (*infer_factory)(void* logger, int32_t version);
typedef void* (*parser_factory)(void* network, void* logger, int32_t version);
}

namespace {

struct Logger final : ILogger {
    Logger(shim_log_fn write, void* user) : write(write), user(user) {}
    void log(Severity severity, AsciiChar const* text) noexcept override {
        write(user, static_cast<int32_t>(severity), text);
    }
    shim_log_fn write;
    void* user;
};

struct Progress final : IProgressMonitor {
    Progress(shim_progress_fn report, void* user) : report(report), user(user) {}
    void phaseStart(char const* phase, char const* parent, int32_t steps) noexcept override {
        report(user, phase, parent, 0, steps);
    }
    bool stepComplete(char const* phase, int32_t step) noexcept override {
        return report(user, phase, nullptr, step + 1, 0) != 0;
    }
    void phaseFinish(char const* phase) noexcept override { report(user, phase, nullptr, -1, 0); }
    shim_progress_fn report;
    void* user;
};

// What a context needs to stay alive beside it. Destroyed in reverse: the context first.
struct Context {
#if defined(TRT_MAJOR_RTX)
    std::unique_ptr<IRuntimeConfig> config;
    std::unique_ptr<IRuntimeCache> cache;
#endif
    std::unique_ptr<IExecutionContext> context;
};

ILogger* logger_of(void* handle) {
    return static_cast<Logger*>(handle);
}
IRuntime* runtime_of(void* handle) {
    return static_cast<IRuntime*>(handle);
}
ICudaEngine* engine_of(void* handle) {
    return static_cast<ICudaEngine*>(handle);
}
IExecutionContext* context_of(void* handle) {
    return static_cast<Context*>(handle)->context.get();
}

// TensorRT 10 and 11 return null plus a base-class offset (0x228) when CUDA cannot start, so `if (!p)` is not enough:
// any pointer into page zero is a failure.
template <class T>
T* checked(void* p) {
    return reinterpret_cast<uintptr_t>(p) < 4096 ? nullptr : static_cast<T*>(p);
}

bool is_dynamic(Dims const& dims) {
    for (int32_t i = 0; i < dims.nbDims; ++i)
        if (dims.d[i] < 0) return true;
    return false;
}

// Every tensor of ours has these axes: batch, channels, height, width.
constexpr int32_t kRANK = 4;

Dims dims_of(int64_t const* shape) {
    Dims dims{};
    dims.nbDims = kRANK;
    for (int32_t d = 0; d < kRANK; ++d) dims.d[d] = shape[d];
    return dims;
}

int32_t copy_dims(Dims const& from, int64_t* to) {
    for (int32_t i = 0; i < from.nbDims; ++i) to[i] = from.d[i];
    return from.nbDims;
}

}  // namespace

extern "C" {

// ---- versions ----

void shim_header_version(int32_t* major, int32_t* minor, int32_t* patch, int32_t* build) {
    *major = NV_TENSORRT_MAJOR;
    *minor = NV_TENSORRT_MINOR;
    *patch = NV_TENSORRT_PATCH;
    *build = NV_TENSORRT_BUILD;
}
int32_t shim_is_rtx() {
#if defined(TRT_MAJOR_RTX)
    return 1;
#else
    return 0;
#endif
}

// ---- logger, runtime, engine ----

void* shim_logger_new(shim_log_fn write, void* user) {
    return new Logger(write, user);
}
void shim_logger_free(void* logger) {
    delete static_cast<Logger*>(logger);
}

void* shim_runtime_new(infer_factory create, void* logger) {
    return checked<IRuntime>(create(logger_of(logger), NV_TENSORRT_VERSION));
}
void shim_runtime_free(void* runtime) {
    delete runtime_of(runtime);
}

void* shim_engine_new(void* runtime, void const* plan, size_t len) {
    return checked<ICudaEngine>(runtime_of(runtime)->deserializeCudaEngine(plan, len));
}
void shim_engine_free(void* engine) {
    delete engine_of(engine);
}
// Device memory that each context takes.
int64_t shim_engine_context_bytes(void* engine) {
    return static_cast<int64_t>(engine_of(engine)->getDeviceMemorySizeV2());
}
int32_t shim_engine_io_count(void* engine) {
    return engine_of(engine)->getNbIOTensors();
}
char const* shim_engine_io_name(void* engine, int32_t i) {
    return engine_of(engine)->getIOTensorName(i);
}
// Returns the rank; `dims` has room for Dims::MAX_DIMS (8).
int32_t shim_engine_io_info(void* engine, char const* name, int32_t* is_input, int32_t* type, int32_t* is_linear,
                            int64_t* dims) {
    auto* e = engine_of(engine);
    *is_input = e->getTensorIOMode(name) == TensorIOMode::kINPUT;
    *type = static_cast<int32_t>(e->getTensorDataType(name));
    *is_linear = e->getTensorFormat(name) == TensorFormat::kLINEAR;
    return copy_dims(e->getTensorShape(name), dims);
}

// ---- execution context ----

// `cache` holds what an earlier context of this engine compiled for the device; TensorRT-RTX only.
void* shim_context_new(void* engine, void const* cache, size_t cache_len) {
    std::unique_ptr<Context> c(new Context);
#if defined(TRT_MAJOR_RTX)
    c->config.reset(engine_of(engine)->createRuntimeConfig());
    if (!c->config) return nullptr;
    c->cache.reset(c->config->createRuntimeCache());
    if (c->cache) {
        if (cache_len > 0 && !c->cache->deserialize(cache, cache_len)) c->cache->reset();
        c->config->setRuntimeCache(*c->cache);
    }
    c->context.reset(engine_of(engine)->createExecutionContext(c->config.get()));
#else
    static_cast<void>(cache);
    static_cast<void>(cache_len);
    c->context.reset(engine_of(engine)->createExecutionContext());
#endif
    return c->context ? c.release() : nullptr;
}
void shim_context_free(void* context) {
    delete static_cast<Context*>(context);
}
// What this context compiled for the device, or null; freed with shim_memory_free.
void* shim_context_compiled(void* context) {
#if defined(TRT_MAJOR_RTX)
    auto* c = static_cast<Context*>(context);
    return c->cache ? c->cache->serialize() : nullptr;
#else
    static_cast<void>(context);
    return nullptr;
#endif
}
int32_t shim_context_set_address(void* context, char const* name, void* device_ptr) {
    return context_of(context)->setTensorAddress(name, device_ptr);
}
// The profile of the next run, numbered as it was built, and the shapes of its inputs; where an engine has one run,
// neither is called.
int32_t shim_context_set_profile(void* context, int32_t profile, void* stream) {
    return context_of(context)->setOptimizationProfileAsync(profile, static_cast<cudaStream_t>(stream));
}
int32_t shim_context_set_shape(void* context, char const* name, int64_t const* shape) {
    return context_of(context)->setInputShape(name, dims_of(shape));
}
// Returns the rank that a tensor has in that run; `dims` has room for Dims::MAX_DIMS (8).
int32_t shim_context_shape(void* context, char const* name, int64_t* dims) {
    return copy_dims(context_of(context)->getTensorShape(name), dims);
}
int32_t shim_context_enqueue(void* context, void* stream) {
    return context_of(context)->enqueueV3(static_cast<cudaStream_t>(stream));
}

// ---- builder ----

enum ShimStage : int32_t {
    kCREATE_BUILDER = 1,
    kCREATE_NETWORK = 2,
    kCREATE_PARSER = 3,
    kPARSE = 4,
    kTENSORS = 5,
    kUNSUPPORTED = 6,
    kBUILD = 7,
    kCAPABILITY = 8,
    kPROFILE = 9,
};

// An input with its shapes, kRANK lengths each: what all runs have in common, -1 where they differ, then each run's.
struct ShimInput {
    char const* name;
    int64_t const* shapes;
};

// What to build. The precision is in the ONNX's types; the two flags reach TensorRT 10's weakly typed mode only.
struct ShimBuild {
    void const* onnx;
    size_t onnx_len;
    size_t workspace;
    ShimInput const* inputs;  // get their shapes where the model leaves lengths free; none: nothing is changed
    int32_t input_count;
    int32_t runs;  // more than one: a profile for each
    char const* const* outputs;  // the only outputs kept; none: all
    int32_t output_count;
    int32_t const* compute_capabilities;  // TensorRT-RTX only: 86, 89, ...
    int32_t compute_capability_count;
    void const* timing_cache;  // full TensorRT only
    size_t timing_cache_len;
    int32_t allow_fp16;
    int32_t allow_int8;
    void* user;
    shim_progress_fn progress;
    shim_tensor_fn tensor;  // every input and output; 0 refuses
    shim_bytes_fn timing;   // the timing cache afterwards
};

// Returns the serialised engine, or null with the stage that failed and a reason in `error`.
void* shim_build(infer_factory create_builder, parser_factory create_parser, void* logger, ShimBuild const* what,
                 int32_t* stage, char* error, size_t error_len) {
    auto fail = [&](int32_t at, char const* text) -> void* {
        *stage = at;
        std::strncpy(error, text ? text : "", error_len - 1);
        error[error_len - 1] = 0;
        return nullptr;
    };
    auto* log = logger_of(logger);
    Progress progress(what->progress, what->user);  // outlives the configuration that refers to it
    std::unique_ptr<IBuilder> builder(checked<IBuilder>(create_builder(log, NV_TENSORRT_VERSION)));
    if (!builder) return fail(kCREATE_BUILDER, "createInferBuilder failed");

    uint32_t network_flags = 0;
#if NV_TENSORRT_MAJOR == 10 && !defined(TRT_MAJOR_RTX)
    if (!what->allow_fp16 && !what->allow_int8)
        network_flags |= 1u << static_cast<uint32_t>(NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#else
    if (what->allow_fp16 || what->allow_int8)
        return fail(kUNSUPPORTED, "");
#endif
    std::unique_ptr<INetworkDefinition> network(builder->createNetworkV2(network_flags));
    if (!network) return fail(kCREATE_NETWORK, "createNetworkV2 failed");
    std::unique_ptr<nvonnxparser::IParser> parser(
        checked<nvonnxparser::IParser>(create_parser(network.get(), log, NV_ONNX_PARSER_VERSION)));
    if (!parser) return fail(kCREATE_PARSER, "createNvOnnxParser failed");
    if (!parser->parse(what->onnx, what->onnx_len))
        return fail(kPARSE, parser->getNbErrors() > 0 ? parser->getError(0)->desc() : "not accepted");

    for (int32_t i = 0; i < network->getNbInputs(); ++i) {
        auto* tensor = network->getInput(i);
        if (!is_dynamic(tensor->getDimensions())) continue;
        for (int32_t k = 0; k < what->input_count; ++k)
            if (std::strcmp(tensor->getName(), what->inputs[k].name) == 0)
                tensor->setDimensions(dims_of(what->inputs[k].shapes));
    }
    for (int32_t i = network->getNbOutputs() - 1; what->output_count > 0 && i >= 0; --i) {
        auto* tensor = network->getOutput(i);
        bool wanted = network->getNbOutputs() == 1;
        for (int32_t k = 0; k < what->output_count; ++k)
            wanted = wanted || std::strcmp(tensor->getName(), what->outputs[k]) == 0;
        if (!wanted) network->unmarkOutput(*tensor);
    }
    auto accepted = [&](ITensor* tensor, int32_t is_input) {
        int64_t dims[Dims::MAX_DIMS];
        auto const rank = copy_dims(tensor->getDimensions(), dims);
        return what->tensor(what->user, is_input, tensor->getName(), static_cast<int32_t>(tensor->getType()), rank,
                            dims) != 0;
    };
    for (int32_t i = 0; i < network->getNbInputs(); ++i)
        if (!accepted(network->getInput(i), 1)) return fail(kTENSORS, "");
    for (int32_t i = 0; i < network->getNbOutputs(); ++i)
        if (!accepted(network->getOutput(i), 0)) return fail(kTENSORS, "");

    std::unique_ptr<IBuilderConfig> config(builder->createBuilderConfig());
    if (!config) return fail(kCREATE_BUILDER, "createBuilderConfig failed");
    config->setMemoryPoolLimit(MemoryPoolType::kWORKSPACE, what->workspace);
    config->setMaxAuxStreams(0);  // everything of a frame runs on its slot's one stream
    config->setProgressMonitor(&progress);
    // Kernels are chosen for each run's shapes alone: there are few, and no others are ever run. Profiles are the
    // builder's own.
    for (int32_t run = 0; what->runs > 1 && run < what->runs; ++run) {
        auto* profile = builder->createOptimizationProfile();
        bool accepted = profile != nullptr;
        for (int32_t k = 0; accepted && k < what->input_count; ++k) {
            auto const dims = dims_of(what->inputs[k].shapes + (run + 1) * kRANK);
            for (auto const selector : {OptProfileSelector::kMIN, OptProfileSelector::kOPT, OptProfileSelector::kMAX})
                accepted = accepted && profile->setDimensions(what->inputs[k].name, selector, dims);
        }
        if (!accepted || config->addOptimizationProfile(profile) != run)
            return fail(kPROFILE, "a profile was refused");
    }
#if NV_TENSORRT_MAJOR == 10 && !defined(TRT_MAJOR_RTX)
    if (what->allow_fp16) config->setFlag(BuilderFlag::kFP16);
    if (what->allow_int8) config->setFlag(BuilderFlag::kINT8);
#endif
#if defined(TRT_MAJOR_RTX)
    if (what->compute_capability_count > 0) {
        config->setNbComputeCapabilities(what->compute_capability_count);
        for (int32_t i = 0; i < what->compute_capability_count; ++i)
            if (!config->setComputeCapability(static_cast<ComputeCapability>(what->compute_capabilities[i]), i))
                return fail(kCAPABILITY, "setComputeCapability failed");
    }
#else
    std::unique_ptr<ITimingCache> cache(config->createTimingCache(what->timing_cache, what->timing_cache_len));
    if (!cache && what->timing_cache_len > 0) cache.reset(config->createTimingCache(nullptr, 0));
    if (cache) config->setTimingCache(*cache, false);
#endif
    auto* engine = builder->buildSerializedNetwork(*network, *config);
    if (!engine) return fail(kBUILD, "buildSerializedNetwork failed");
#if !defined(TRT_MAJOR_RTX)
    if (cache) {
        std::unique_ptr<IHostMemory> bytes(cache->serialize());
        if (bytes) what->timing(what->user, bytes->data(), bytes->size());
    }
#endif
    return engine;
}

void const* shim_memory_data(void* memory, size_t* len) {
    auto* m = static_cast<IHostMemory*>(memory);
    *len = m->size();
    return m->data();
}
void shim_memory_free(void* memory) {
    delete static_cast<IHostMemory*>(memory);
}

}  // extern "C"
