from smidgen.serving.schemas import check_schema as check_schema
