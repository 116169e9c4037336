#!/bin/sh
# Install one target of the image into a prefix, with what the program never loads left out: install.sh roles|worker PREFIX
# Run in the root of the source tree, by the Dockerfile and by 'make image-check' alike.
set -eu
target=$1 prefix=$2 here=$PWD
if [ -n "${UV:-}" ]; then  # 'make image-check' takes what it has in its cache, and a Python that other users reach
  $UV venv --quiet --python "${PYTHON:-python3}" "$prefix"
  # copies: files that are linked into the cache, and from there into every other environment, would be stripped in all of them, as they run
  install="$UV pip install --quiet --link-mode copy --python $prefix/bin/python"
else
  python3 -m venv "$prefix"
  install="$prefix/bin/pip install --quiet --no-compile --disable-pip-version-check"
fi
$install --require-hashes -r "deploy/$target.lock"
$install --no-deps --no-build-isolation "$here/client" "$here"
packages=$(echo "$prefix"/lib/python3*/site-packages)
cd "$packages"
# tests of libraries (numpy.testing and astropy load some of their own), headers, parts of Arrow for other services
[ ! -d scipy ] || find scipy -depth -type d -name tests -exec rm -rf {} +
find astropy -mindepth 2 -depth -type d -name tests -exec rm -rf {} +
rm -rf pandas/tests numba/tests pyarrow/tests pyarrow/include pyarrow/src
rm -f pyarrow/libarrow_flight* pyarrow/libarrow_python_flight* pyarrow/_flight*
# what botocore knows of services other than the storage and how one signs in there
find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} +
# names for debuggers, in libraries that are as their makers linked them; into new files: uv links what other environments
# have too, and whoever runs from these would crash if they were written over
for library in llvmlite/binding/libllvmlite.so uvloop/*.so zstandard/*.so fastavro/*.so sep*.so pyarrow/libarrow*.so* pyarrow/libparquet*.so*; do
  [ ! -f "$library" ] || { strip --strip-unneeded -o "$library.new" "$library" && mv -f "$library.new" "$library"; }
done
[ ! -x "$prefix/bin/pip" ] || "$prefix/bin/pip" uninstall --quiet --yes pip
find "$prefix" -name __pycache__ -type d -prune -exec rm -rf {} +
