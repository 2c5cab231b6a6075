"""The config: how files become one, and every way in which they can be wrong. It knows no component.

``units`` and ``model`` hold the field types and what all models share; ``service`` and ``root`` the keys that belong to
no component; ``tree``, ``expand``, ``load`` and ``check`` read files; ``show`` prints. Each component's keys stand
beside the component, and ``grafter/components.py`` lists them.
"""
