/* Plans and runs one op through the C interface of an installed Fathom.   consumer VERSION */
#include <stdio.h>
#include <string.h>

#include "fathom/c/fathom.h"

int main(int argc, char** argv) {
  float scores[4] = {1.0f, 4.0f, 4.0f, 2.0f};
  int32_t picked[2] = {-2, -2};
  fathom_device* device = NULL;
  fathom_plan* plan = NULL;
  fathom_workspace workspace = {{0, 0}, {0, 0}, {0, 0}};
  fathom_status status;
  fathom_code code;
  fathom_tensor args[3];

  if (argc != 2 || strcmp(argv[1], fathom_version()) != 0 || fathom_abi_version() != FATHOM_C_ABI_VERSION) return 2;
  code = fathom_device_create("cpu", 1, &device, &status);
  if (code == FATHOM_OK) {
    code = fathom_plan_create("select_topk", "num_tokens=1 num_scores=4 topk=2", device, "reference", &plan, &status);
  }
  memset(args, 0, sizeof(args));
  args[0] = fathom_tensor_packed(scores, FATHOM_F32, 2, 1, 4, 0, 0);
  args[2] = fathom_tensor_packed(picked, FATHOM_I32, 2, 1, 2, 0, 0);
  if (code == FATHOM_OK) code = fathom_run(plan, args, 3, &workspace, NULL, &status);
  fathom_plan_destroy(plan);
  fathom_device_destroy(device);
  if (code != FATHOM_OK) {
    fprintf(stderr, "%s: %s\n", fathom_code_name((int32_t)code), status.text);
    return 1;
  }
  printf("picked %d and %d\n", (int)picked[0], (int)picked[1]);
  return picked[0] == 1 && picked[1] == 2 ? 0 : 1;
}
