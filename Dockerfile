# One image, two static binaries, nothing else: no shell, no libc, no package to patch.
#
# The same file builds with buildah and with Docker: it only packs dist/, which `make image` fills
# by cargo (statically linked, so that an empty root is enough). Compiling inside the build would
# need a base image from a registry, and the binaries would not be the ones that were tested.
#
#   make image                                     # into dist/, packed with buildah
#   make dist && docker build -t etcd-scaler .     # packed with Docker
FROM scratch
COPY dist/hook dist/webhook /
# The number, so that runAsNonRoot can be checked without /etc/passwd.
USER 65532:65532
