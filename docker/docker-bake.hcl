# The menu for people with buildx: `make wheel && docker buildx bake --file docker/docker-bake.hcl`.
# The Makefile's build/% builds the same flavours with any BuildKit; tests/image/test_image_menu.py holds the two together.

variable "IMAGE" { default = "wharf" }
variable "VERSION" { default = "0" }
variable "REVISION" { default = "unknown" }
variable "EXTRAS" { default = "torch" }

group "default" {
  targets = ["cpu", "triton", "graviton", "djl"]
}

target "_common" {
  context = "."
  args = {
    VERSION  = VERSION
    REVISION = REVISION
  }
  attest = [
    "type=provenance,mode=max",
    "type=sbom",
  ]
}

target "cpu" {
  inherits   = ["_common"]
  dockerfile = "docker/cpu/Dockerfile"
  # Arm64 has a flavour of its own, graviton: torch's arm64 wheel of this version is a CUDA build.
  platforms = ["linux/amd64"]
  tags      = ["${IMAGE}:cpu", "${IMAGE}:${VERSION}-cpu"]
  args = {
    EXTRAS = EXTRAS
  }
}

target "triton" {
  inherits   = ["_common"]
  dockerfile = "docker/triton/Dockerfile"
  platforms  = ["linux/amd64"]
  tags       = ["${IMAGE}:triton", "${IMAGE}:${VERSION}-triton"]
  args       = {}
}

target "graviton" {
  inherits   = ["_common"]
  dockerfile = "docker/graviton/Dockerfile"
  # One name for both: bake pushes a manifest list. What installs runs on the machine that builds, whatever it is.
  platforms = ["linux/arm64", "linux/amd64"]
  tags      = ["${IMAGE}:graviton", "${IMAGE}:${VERSION}-graviton"]
  args      = {}
}

target "djl" {
  inherits   = ["_common"]
  dockerfile = "docker/djl/Dockerfile"
  platforms  = ["linux/amd64"]
  tags       = ["${IMAGE}:djl", "${IMAGE}:${VERSION}-djl"]
  args       = {}
}
