# A private copy of jemalloc: a position-independent archive with every public name X changed to
# kvstow__je_X, so that linking kvstow does not replace the host's malloc. docs/decisions.md tells
# why. Sets KVSTOW_JEMALLOC_ARCHIVE and the target kvstow_jemalloc_archive.
#
# The archive is the one scripts/build-jemalloc made, or the distribution's. The latter works, but
# uses so much static TLS that libkvstow.so can't be loaded with dlopen().

set(KVSTOW_JEMALLOC_ROOT "" CACHE PATH "Where scripts/build-jemalloc installed")
if(KVSTOW_JEMALLOC_ROOT)
  find_path(JEMALLOC_INCLUDE_DIR jemalloc/jemalloc.h HINTS ${KVSTOW_JEMALLOC_ROOT}/include
            NO_DEFAULT_PATH NO_CACHE REQUIRED)
  find_library(JEMALLOC_PIC_ARCHIVE NAMES libjemalloc_pic.a HINTS ${KVSTOW_JEMALLOC_ROOT}/lib
               NO_DEFAULT_PATH NO_CACHE REQUIRED)
else()
  find_path(JEMALLOC_INCLUDE_DIR jemalloc/jemalloc.h NO_CACHE REQUIRED)
  find_library(JEMALLOC_PIC_ARCHIVE NAMES libjemalloc_pic.a NO_CACHE REQUIRED)
  message(NOTICE "kvstow: with ${JEMALLOC_PIC_ARCHIVE}, libkvstow.so must be linked, not "
          "dlopen()ed; see scripts/build-jemalloc")
endif()

# The public names. Those jemalloc defines and uses itself are all here; its internal names begin
# with je_ and are made local when the library is linked.
set(kvstow_je_names
    aligned_alloc calloc dallocx free mallctl mallctlbymib mallctlnametomib malloc malloc_conf
    malloc_conf_2_conf_harder malloc_message malloc_stats_print malloc_usable_size mallocx memalign
    nallocx posix_memalign rallocx realloc sallocx sdallocx valloc xallocx
    # What it asks of the host: answered by kvcache/je.c.
    readlink secure_getenv)

set(kvstow_je_dir ${CMAKE_BINARY_DIR}/jemalloc)
set(KVSTOW_JEMALLOC_ARCHIVE ${kvstow_je_dir}/libkvstow_jemalloc.a)
list(TRANSFORM kvstow_je_names REPLACE "(.+)" "\\1 kvstow__je_\\1" OUTPUT_VARIABLE kvstow_je_lines)
list(JOIN kvstow_je_lines "\n" kvstow_je_lines)
file(CONFIGURE OUTPUT ${kvstow_je_dir}/names.txt CONTENT "${kvstow_je_lines}\n")

# malloc_io.pic.o writes messages to stderr with syscall(); other members use it for other things.
# jemalloc_cpp.pic.o is operator new and delete: the host's.
add_custom_command(
  OUTPUT ${KVSTOW_JEMALLOC_ARCHIVE}
  COMMAND ${CMAKE_OBJCOPY} --redefine-syms=names.txt ${JEMALLOC_PIC_ARCHIVE} all.a
  COMMAND ${CMAKE_AR} d all.a jemalloc_cpp.pic.o
  COMMAND ${CMAKE_AR} x all.a malloc_io.pic.o
  COMMAND ${CMAKE_OBJCOPY} --redefine-sym syscall=kvstow__je_message_syscall malloc_io.pic.o
  COMMAND ${CMAKE_AR} r all.a malloc_io.pic.o
  COMMAND ${CMAKE_COMMAND} -E rename all.a ${KVSTOW_JEMALLOC_ARCHIVE}
  DEPENDS ${JEMALLOC_PIC_ARCHIVE} ${kvstow_je_dir}/names.txt
  WORKING_DIRECTORY ${kvstow_je_dir}
  COMMENT "Renaming a private copy of jemalloc"
  VERBATIM)
add_custom_target(kvstow_jemalloc_archive DEPENDS ${KVSTOW_JEMALLOC_ARCHIVE})
