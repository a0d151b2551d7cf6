-- The operator's rules over the inputs of generations; 710_data_input_rules.sql has the default ones. model and input
-- are patterns, in which * stands for any characters.
create table picture_queue.input_rule (
  model text not null,
  plan text,  -- null: the rule applies to the users of each plan
  input text not null,
  action text not null,
  value jsonb,
  -- Of several rules for an input, the one with the highest specificity applies.
  specificity integer[] not null generated always as (array[
    (plan is not null)::integer, (strpos(model, '*') = 0)::integer, length(model),
    (strpos(input, '*') = 0)::integer, length(input)]) stored,
  -- The patterns in the syntax of `like … escape '!'`; names of inputs are compared without regard to case.
  model_like text not null generated always as (replace(replace(model, '_', '!_'), '*', '%')) stored,
  input_like text not null generated always as (replace(replace(lower(input), '_', '!_'), '*', '%')) stored,
  constraint input_rule_key unique nulls not distinct (model, plan, input, action),
  constraint input_rule_model_is_pattern check (model ~ '^[A-Za-z0-9._:/*-]{1,200}$'),
  constraint input_rule_input_is_pattern check (input ~ '^[A-Za-z0-9_.*-]{1,100}$'),
  constraint input_rule_plan_is_plain check (plan ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
  constraint input_rule_action_is_known check (action in ('lock', 'default', 'cap', 'refuse', 'allow')),
  constraint input_rule_has_value check (case action
    when 'cap' then jsonb_typeof(value) = 'number' and value is not null
    when 'refuse' then value is null or jsonb_typeof(value) = 'array'
    when 'allow' then value is null
    else value is not null end)
);
comment on table picture_queue.input_rule is 'Rules over inputs: locked, default, highest and refused values.';
