%% What most suites are made of: their groups are the backends, and `groups/0' says which cases run on each.
%%
%% Included where the functions begin. A suite that runs more than that defines OWN_ALL and says what; one that looks at what
%% is logged defines COLLECTS_LOGS.

-ifndef(OWN_ALL).
all() ->
    [{group, Backend} || Backend <- reactor_test:backends()].
-endif.

init_per_group(Group, Config) ->
    reactor_test:init_group(Group, Config).

end_per_group(_Group, _Config) ->
    ok.

-ifdef(COLLECTS_LOGS).
init_per_testcase(_Case, Config) ->
    ok = log_collector:install(),
    Config.

end_per_testcase(_Case, _Config) ->
    log_collector:remove().
-endif.
