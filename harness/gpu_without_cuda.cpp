// The build has no CUDA: there is nothing to capture or to time.
#include "harness/gpu.h"

namespace fathom::harness {
namespace {

Status none() { return Status::unsupported("bench: this build has no CUDA"); }

}  // namespace

Result<GpuStream> GpuStream::create(const Device&) { return none(); }
GpuStream::GpuStream(GpuStream&&) noexcept = default;
GpuStream::~GpuStream() = default;

struct GpuGraph::Impl {};
Result<GpuGraph> GpuGraph::capture(const Device&, const Work&) { return none(); }
GpuGraph::GpuGraph(GpuGraph&&) noexcept = default;
GpuGraph::~GpuGraph() = default;
Result<double> GpuGraph::replay() const { return none(); }
Result<std::vector<double>> GpuGraph::between_marks() const { return none(); }

struct GpuRoof::Impl {};
Result<GpuRoof> GpuRoof::create(const Device&) { return none(); }
GpuRoof::GpuRoof(GpuRoof&&) noexcept = default;
GpuRoof::~GpuRoof() = default;
Result<double> GpuRoof::read_bytes_per_second() { return none(); }
Result<double> GpuRoof::operations_per_second() { return none(); }
double GpuRoof::clock_hz() const noexcept { return 0; }

}  // namespace fathom::harness
