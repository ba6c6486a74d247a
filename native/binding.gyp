# SPDX-License-Identifier: MIT
# Builds the addon. Downloads nothing: liburing is taken from the system when pkg-config knows it
# (2.2 or later), statically where its archive is there; else the addon is built without the ring
# and uses its threads engine, which probeUring() then says.
{
  'variables': {
    'uring%': '<!(pkg-config --atleast-version=2.2 liburing && echo 1 || echo 0)',
  },
  'targets': [
    {
      'target_name': 'ploop_nbd',
      'sources': [
        'src/addon.cc',
        'src/arena.cc',
        'src/engine_binding.cc',
        'src/engine_connections.cc',
        'src/engine_core.cc',
        'src/engine_tables.cc',
        'src/engine_threads.cc',
        'src/engine_uring.cc',
        'src/file_binding.cc',
        'src/file_ops.cc',
        'src/notify.cc',
        'src/operation.cc',
        'src/signal.cc',
        'src/socket_ops.cc',
        'src/system_error.cc',
        'src/uring_setup.cc',
        'src/work_pool.cc',
      ],
      'include_dirs': ["<!(node -p \"require('node-addon-api').include_dir\")"],
      'defines': [
        'NAPI_VERSION=9',
        'NAPI_CPP_EXCEPTIONS',
        # a worker that is being terminated takes no exception: it is dropped, not fatal
        'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
        '_GNU_SOURCE',
        '_FILE_OFFSET_BITS=64',
      ],
      'cflags!': ['-fno-exceptions'],
      'cflags_cc!': ['-fno-exceptions', '-std=gnu++17', '-std=gnu++20', '-fno-rtti'],
      'cflags_cc': ['-std=c++20', '-O2', '-g1', '-Wall', '-Wextra', '-Werror', '-fvisibility=hidden'],
      'ldflags': ['-static-libstdc++', '-static-libgcc', '-Wl,--exclude-libs,ALL'],
      'conditions': [
        [
          'uring==1',
          {
            'defines': ['PLOOP_HAVE_URING'],
            'cflags': ['<!@(pkg-config --cflags liburing)'],
            'libraries': ['<!(sh <(module_root_dir)/src/liburing-archive.sh)'],
          },
        ],
      ],
    },
  ],
}
