"""Message classes from the descriptors of their `.proto` files, for every protobuf from 5.26 on.

What protoc generates runs with its own major release of protobuf and the next one only. The generated modules of this
package hold serialized descriptors instead, and `load` makes classes of them with protobuf's public interface.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import duration_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

# A pool of its own: clients such as tritonclient register files of the same names in protobuf's default pool.
POOL = DescriptorPool()
POOL.AddSerializedFile(duration_pb2.DESCRIPTOR.serialized_pb)


def load(module: dict[str, Any], serialized: bytes) -> None:
    """Puts into `module` what protoc's code of a file has: DESCRIPTOR, its messages, its enums and their values.

    `serialized` is a FileDescriptorProto, whose imports are loaded.
    """
    POOL.AddSerializedFile(serialized)
    file = POOL.FindFileByName(module["FILE"])
    module["DESCRIPTOR"] = file
    for name, message in file.message_types_by_name.items():
        module[name] = GetMessageClass(message)
    for name, enum in file.enum_types_by_name.items():
        module[name] = EnumTypeWrapper(enum)
        module.update((value.name, value.number) for value in enum.values)
