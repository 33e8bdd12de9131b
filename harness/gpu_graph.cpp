// Streams and graphs by the CUDA runtime. Marks are event nodes: they are recorded anew by every replay.
#include <utility>

#include "harness/gpu.h"
#include "harness/gpu_call.h"

namespace fathom::harness {

Result<GpuStream> GpuStream::create(const Device& device) {
  FATHOM_GPU_TRY(cudaSetDevice, device.index());
  cudaStream_t stream = nullptr;
  FATHOM_GPU_TRY(cudaStreamCreateWithFlags, &stream, cudaStreamNonBlocking);
  return GpuStream(Stream{stream});
}
GpuStream::GpuStream(GpuStream&& other) noexcept : stream_(std::exchange(other.stream_, {})) {}
GpuStream::~GpuStream() {
  if (stream_.handle != nullptr) cudaStreamDestroy(static_cast<cudaStream_t>(stream_.handle));
}

struct GpuGraph::Impl {
  explicit Impl(GpuStream own) : stream(std::move(own)) {}
  Impl(const Impl&) = delete;
  ~Impl() {
    for (cudaEvent_t event : {begin, end}) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    for (cudaEvent_t event : marks) cudaEventDestroy(event);
    if (exec != nullptr) cudaGraphExecDestroy(exec);
    if (graph != nullptr) cudaGraphDestroy(graph);
  }
  cudaStream_t handle() const { return static_cast<cudaStream_t>(stream.get().handle); }

  GpuStream stream;
  cudaEvent_t begin = nullptr, end = nullptr;
  std::vector<cudaEvent_t> marks;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
};

GpuGraph::GpuGraph(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
GpuGraph::GpuGraph(GpuGraph&&) noexcept = default;
GpuGraph::~GpuGraph() = default;

Result<GpuGraph> GpuGraph::capture(const Device& device, const Work& work) {
  FATHOM_ASSIGN(GpuStream stream, GpuStream::create(device));
  auto impl = std::make_unique<Impl>(std::move(stream));
  FATHOM_GPU_TRY(cudaEventCreate, &impl->begin);
  FATHOM_GPU_TRY(cudaEventCreate, &impl->end);
  const auto mark = [&]() -> Status {
    cudaEvent_t event = nullptr;
    FATHOM_GPU_TRY(cudaEventCreate, &event);
    impl->marks.push_back(event);
    FATHOM_GPU_TRY(cudaEventRecordWithFlags, event, impl->handle(), cudaEventRecordExternal);
    return {};
  };
  // The strictest mode: a run that allocates or waits breaks the capture, and that shows here.
  FATHOM_GPU_TRY(cudaStreamBeginCapture, impl->handle(), cudaStreamCaptureModeGlobal);
  const Status given = work(impl->stream.get(), mark);
  const cudaError_t ended = cudaStreamEndCapture(impl->handle(), &impl->graph);
  if (!given.ok() || ended != cudaSuccess) cudaGetLastError();  // told here, and not to whoever asks next
  FATHOM_TRY(given);
  FATHOM_TRY(gpu_status("cudaStreamEndCapture", ended));
  FATHOM_GPU_TRY(cudaGraphInstantiate, &impl->exec, impl->graph, 0);
  return GpuGraph(std::move(impl));
}

Result<double> GpuGraph::replay() const {
  FATHOM_GPU_TRY(cudaEventRecord, impl_->begin, impl_->handle());
  FATHOM_GPU_TRY(cudaGraphLaunch, impl_->exec, impl_->handle());
  FATHOM_GPU_TRY(cudaEventRecord, impl_->end, impl_->handle());
  FATHOM_GPU_TRY(cudaEventSynchronize, impl_->end);
  float milliseconds = 0;
  FATHOM_GPU_TRY(cudaEventElapsedTime, &milliseconds, impl_->begin, impl_->end);
  return milliseconds * 1e-3;
}

Result<std::vector<double>> GpuGraph::between_marks() const {
  std::vector<double> seconds;
  for (std::size_t i = 0; i + 1 < impl_->marks.size(); ++i) {
    float milliseconds = 0;
    FATHOM_GPU_TRY(cudaEventElapsedTime, &milliseconds, impl_->marks[i], impl_->marks[i + 1]);
    seconds.push_back(milliseconds * 1e-3);
  }
  return seconds;
}

}  // namespace fathom::harness
