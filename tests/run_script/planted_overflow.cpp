// Reads one element past an array: AddressSanitizer must stop this, or `./run test --deep` does not trust it.
int main(int argc, char**) {
  int* numbers = new int[4]();
  const int value = numbers[argc + 3];
  delete[] numbers;
  return value & 1;
}
