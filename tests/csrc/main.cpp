#include <cstring>

#include "check.h"

// Runs every case, or those whose name contains the argument.
int main(int argc, char** argv) {
  int run = 0;
  for (const auto& test : gpt2fast::test::cases()) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) continue;
    std::printf("%s\n", test.name);
    std::fflush(stdout);
    test.body();
    ++run;
  }
  std::printf("%d passed, 0 failed\n", run);
  return run == 0;
}
