#include "binary_matmul.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <new>

#include "scratch.h"

namespace dbf {
namespace {

// Up to here the rows are decoding: their tables are made once, and only the outputs are divided among threads.
constexpr size_t kDecodeRows = 8;
// Signs of a task: some microseconds of work, many times what starting a task costs.
constexpr size_t kTaskSigns = size_t{1} << 20;
// Tables of the rows that a prefill task takes together: they and the signs of a strip share a second-level cache of 1 MiB.
constexpr size_t kGroupTableBytes = size_t{512} << 10;
constexpr size_t kGroupRows = 16;
// Tasks that a prefill is divided into if it is large enough, and the least blocks of 16 outputs of each.
constexpr size_t kPrefillTasks = 32;
constexpr size_t kLeastRangeBlocks = 64;
// Blocks of 16 outputs that a thread sums at once.
constexpr size_t kStripBlocks = 16;

size_t divideUp(size_t a, size_t b) { return (a + b - 1) / b; }

// The table of one row of activations; a row that is not finite is exact also in fast calls.
struct RowTable {
  bool fast;
  const float* exact;
  const int8_t* quantized;
  const float* scales;
};

struct Work {
  const KernelSet& kernels;
  const BinaryMatMulCall& call;
  size_t words, blocks;
  size_t groupRows, groups;      // rows of a task, and how many such groups
  size_t rangeBlocks, ranges;    // blocks of a task, and how many such ranges
  const RowTable* shared;        // decoding: tables of all rows
  std::atomic<bool> failed{false};

  Work(const KernelSet& k, const BinaryMatMulCall& c)
      : kernels(k), call(c), words(divideUp(c.k, kWordColumns)), blocks(divideUp(c.n, kBlockRows)),
        groupRows(c.rows), groups(1), rangeBlocks(blocks), ranges(1), shared(nullptr) {}

  // Bytes of the memory that makeTables() needs: an exact table each, as any row may turn out not to be finite, the padded
  // activations and the fast scales.
  size_t rowBytes() const { return sizeof(float) * words * (kTableEntries + 2 * kWordColumns) + 64; }
  size_t tableBytes(size_t rows) const { return rows * (rowBytes() + sizeof(RowTable)) + 64; }

  const RowTable* makeTables(void* memory, size_t firstRow, size_t rows) const {
    char* at = static_cast<char*>(memory);
    RowTable* tables = reinterpret_cast<RowTable*>(at + rows * rowBytes());
    for (size_t row = 0; row < rows; row++, at += rowBytes()) {
      float* table = reinterpret_cast<float*>(at);
      float* padded = table + words * kTableEntries;
      float* scales = padded + words * kWordColumns;
      const size_t offset = (firstRow + row) * call.k;
      if (call.half) {
        kernels.fromHalf(static_cast<const uint16_t*>(call.x) + offset, call.k, padded);
      } else {
        std::memcpy(padded, static_cast<const float*>(call.x) + offset, call.k * sizeof(float));
      }
      std::fill(padded + call.k, padded + words * kWordColumns, 0.0f);
      int8_t* quantized = reinterpret_cast<int8_t*>(table);
      const bool fast = call.fast && kernels.fastTable(padded, words, quantized, scales);
      if (!fast) kernels.exactTable(padded, words, table);
      tables[row] = {fast, table, quantized, scales};
    }
    return tables;
  }

  void multiply(const RowTable* tables, size_t firstRow, size_t rows, size_t firstBlock, size_t endBlock) const {
    alignas(64) float sums[kStripBlocks * kBlockRows], scale[kStripBlocks * kBlockRows];
    for (size_t block = firstBlock; block < endBlock; block += kStripBlocks) {
      const size_t count = std::min(kStripBlocks, endBlock - block);
      const size_t first = block * kBlockRows, outputs = std::min(count * kBlockRows, call.n - first);
      if (call.half) {
        kernels.fromHalf(static_cast<const uint16_t*>(call.scale) + first, outputs, scale);
      } else {
        std::memcpy(scale, static_cast<const float*>(call.scale) + first, outputs * sizeof(float));
      }
      const uint32_t* signs = call.signs + block * words * kBlockRows;
      for (size_t row = 0; row < rows; row++) {
        const RowTable& table = tables[row];
        if (table.fast) {
          kernels.fastSums(signs, words, count, table.quantized, table.scales, sums, row == 0);
        } else {
          kernels.exactSums(signs, words, count, table.exact, sums, row == 0);
        }
        for (size_t i = 0; i < outputs; i++) sums[i] *= scale[i];
        const size_t to = (firstRow + row) * call.n + first;
        if (call.half) {
          kernels.toHalf(sums, outputs, static_cast<uint16_t*>(call.y) + to);
        } else {
          std::memcpy(static_cast<float*>(call.y) + to, sums, outputs * sizeof(float));
        }
      }
    }
  }

  void task(size_t index) {
    const size_t firstBlock = index % ranges * rangeBlocks, endBlock = std::min(blocks, firstBlock + rangeBlocks);
    const size_t firstRow = index / ranges * groupRows, rows = std::min(groupRows, call.rows - firstRow);
    if (shared) return multiply(shared, firstRow, rows, firstBlock, endBlock);
    thread_local Scratch scratch;
    multiply(makeTables(scratch.ensure(tableBytes(rows)), firstRow, rows), firstRow, rows, firstBlock, endBlock);
  }

  // Exceptions must not cross the host's threads.
  static void guarded(void* data, size_t index) {
    Work& work = *static_cast<Work*>(data);
    try {
      work.task(index);
    } catch (const std::exception&) {
      work.failed = true;
    }
  }
};

}  // namespace

void binaryMatMul(const KernelSet& kernels, const BinaryMatMulCall& call, const Parallel& parallel) {
  if (call.rows == 0 || call.n == 0) return;
  Work work(kernels, call);
  thread_local Scratch scratch;
  const size_t blockSigns = kBlockRows * kWordColumns * std::max<size_t>(work.words, 1);
  if (call.rows <= kDecodeRows) {
    work.shared = work.makeTables(scratch.ensure(work.tableBytes(call.rows)), 0, call.rows);
    work.rangeBlocks = std::max<size_t>(1, kTaskSigns / (blockSigns * call.rows));
  } else {
    const size_t bytes = call.fast ? work.words * kTableEntries : sizeof(float) * work.words * kTableEntries;
    work.groupRows = std::clamp<size_t>(kGroupTableBytes / std::max<size_t>(bytes, 1), 1, kGroupRows);
    work.groups = divideUp(call.rows, work.groupRows);
    // enough tasks for many threads, but ranges whose signs cost far more than making the tables again
    work.rangeBlocks = std::max(kLeastRangeBlocks, divideUp(work.blocks, divideUp(kPrefillTasks, work.groups)));
  }
  work.ranges = divideUp(work.blocks, work.rangeBlocks);
  const size_t tasks = work.ranges * work.groups;
  if (tasks == 1) {
    work.task(0);
  } else {
    parallel.run(parallel.context, &Work::guarded, tasks, &work);
    if (work.failed) throw std::bad_alloc();
  }
}

}  // namespace dbf
