// Reads 256 MiB a thread, many times; prints the best total rate in GB/s. Usage: read_bandwidth THREADS
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
  const size_t words = size_t{256} << 17;
  std::vector<std::vector<uint64_t>> memory(threads, std::vector<uint64_t>(words, 1));
  std::vector<uint64_t> sums(threads);
  double best = 0;
  for (int turn = 0; turn < 8; turn++) {
    const auto started = std::chrono::steady_clock::now();
    std::vector<std::thread> running;
    for (int t = 0; t < threads; t++) {
      running.emplace_back([&, t] {
        uint64_t sum = 0;
        for (uint64_t word : memory[t]) sum += word;
        sums[t] = sum;
      });
    }
    for (std::thread& thread : running) thread.join();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    const double rate = threads * words * 8 / seconds / 1e9;
    if (rate > best) best = rate;
  }
  uint64_t total = 0;
  for (uint64_t sum : sums) total += sum;
  std::printf("%.2f\n", total == 0 ? 0 : best);
}
