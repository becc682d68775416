"""What is used of libyaml 0.2's parser (yaml.h)."""


cdef extern from "<yaml.h>" nogil:
    ctypedef unsigned char yaml_char_t
    enum:
        YAML_UTF8_ENCODING
        YAML_PLAIN_SCALAR_STYLE
        YAML_STREAM_START_EVENT
        YAML_STREAM_END_EVENT
        YAML_DOCUMENT_START_EVENT
        YAML_DOCUMENT_END_EVENT
        YAML_SCALAR_EVENT
        YAML_SEQUENCE_START_EVENT
        YAML_SEQUENCE_END_EVENT
        YAML_MAPPING_START_EVENT
        YAML_MAPPING_END_EVENT
    struct tg_yaml_scalar:
        yaml_char_t *anchor
        yaml_char_t *tag
        yaml_char_t *value
        size_t length
        int plain_implicit
        int style
    struct tg_yaml_collection:
        yaml_char_t *anchor
        yaml_char_t *tag
    union tg_yaml_data:
        tg_yaml_scalar scalar
        tg_yaml_collection sequence_start
        tg_yaml_collection mapping_start
    ctypedef struct yaml_event_t:
        int type
        tg_yaml_data data
    ctypedef struct yaml_parser_t:
        pass
    int yaml_parser_initialize(yaml_parser_t *parser)
    void yaml_parser_delete(yaml_parser_t *parser)
    void yaml_parser_set_encoding(yaml_parser_t *parser, int encoding)
    void yaml_parser_set_input_string(yaml_parser_t *parser, const unsigned char *text, size_t size)
    int yaml_parser_parse(yaml_parser_t *parser, yaml_event_t *event)
    void yaml_event_delete(yaml_event_t *event)
