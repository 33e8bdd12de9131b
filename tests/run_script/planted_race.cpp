// Two threads write one number: ThreadSanitizer must see this, or `./run test --deep` does not trust it.
#include <thread>

int shared_number = 0;

int main() {
  const auto count = [] {
    for (int i = 0; i < 100000; ++i) ++shared_number;
  };
  std::thread other(count);
  count();
  other.join();
}
