# The load of the demo and the tests, packed as the product is (see ../Dockerfile).
FROM scratch
COPY dist/traffic /
USER 65532:65532
ENTRYPOINT ["/traffic"]
