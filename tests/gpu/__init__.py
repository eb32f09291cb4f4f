"""Device memory: on a fake NVML with a byte meter, and the same tests on a real GPU where one is at hand."""
